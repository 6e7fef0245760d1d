//! As much HTTP/1.1 as the test servers and clients need: a head, and a body
//! of a known length, on connections that stay open.

use std::io::{self, BufRead, Read as _};

/// A request or response: its first line, the headers by lower-case name, the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The request line or status line.
    pub start: String,
    /// Header names in lower case, and their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Message {
    /// Reads one; `None` at the end of the connection.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(start) = line(reader)? else { return Ok(None) };
        let mut headers = Vec::new();
        while let Some(text) = line(reader)?.filter(|text| !text.is_empty()) {
            let (name, value) = text.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut message = Self { start, headers, body: Vec::new() };
        let length = message.header("content-length").map_or(Ok(0), str::parse::<usize>);
        message.body = vec![0; length.map_err(|error| io::Error::other(error.to_string()))?];
        reader.read_exact(&mut message.body)?;
        Ok(Some(message))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    if reader.take(8192).read_line(&mut text)? == 0 {
        return Ok(None);
    }
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn messages_of_one_connection_are_read_one_by_one() -> std::io::Result<()> {
        let mut bytes: &[u8] =
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        let first = Message::read(&mut bytes)?.unwrap();
        assert_eq!((first.start.as_str(), first.header("host")), ("GET / HTTP/1.1", Some("x")));
        let second = Message::read(&mut bytes)?.unwrap();
        assert_eq!(
            (second.start.as_str(), second.body.as_slice()),
            ("POST /a HTTP/1.1", &b"abc"[..])
        );
        assert_eq!(Message::read(&mut bytes)?, None);
        Ok(())
    }
}
