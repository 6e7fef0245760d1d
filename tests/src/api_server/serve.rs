//! HTTP/1.1 over TLS, a thread for each connection.

use super::objects::{Selection, State, status};
use super::{ListFault, Shared, TOKEN};
use crate::http::Message;
use anyhow::{Context as _, Result, bail};
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;
use std::io::{BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

type Stream = BufReader<StreamOwned<ServerConnection, TcpStream>>;

/// Accepts connections until the server ends.
pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        let mut state = shared.state();
        if state.over {
            return;
        }
        if state.away {
            // It ends with the value.
            continue;
        }
        let Ok(handle) = stream.try_clone() else { continue };
        state.connections.push(handle);
        drop(state);
        let shared = Arc::clone(shared);
        // Clients may leave at any time.
        std::thread::spawn(move || converse(stream, &shared));
    }
}

fn converse(stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let closing = stream.try_clone()?;
    let connection = ServerConnection::new(shared.identity.config())?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(request) = Message::read(&mut stream)? {
        let result = answer(&request, &mut stream, shared);
        if result.is_err() {
            closing.shutdown(Shutdown::Both)?;
            return result;
        }
    }
    Ok(())
}

/// What was asked for, taken apart.
struct Asked {
    method: String,
    kind: String,
    /// The object, where one is asked for.
    name: Option<String>,
    query: Vec<(String, String)>,
}

impl Asked {
    fn of(request: &Message) -> Result<Self> {
        let mut words = request.start.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().context("a request without a target")?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut parts = path.rsplit('/');
        let last = parts.next().unwrap_or_default().to_owned();
        let (kind, name) = match parts.next() {
            Some("events") => ("events".to_owned(), Some(last)),
            _ => (last, None),
        };
        Ok(Self {
            method,
            kind,
            name,
            query: pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect(),
        })
    }

    fn get(&self, name: &str) -> &str {
        let pair = self.query.iter().find(|(own, _)| own == name);
        pair.map_or("", |(_, value)| value)
    }

    fn selection(&self) -> Selection {
        let terms = |name: &str| {
            let terms = self.get(name).split(',').filter(|term| !term.is_empty());
            terms.map(str::to_owned).collect()
        };
        Selection { labels: terms("labelSelector"), fields: terms("fieldSelector") }
    }
}

/// Undoes the escapes of a URL.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let escaped = more.get(..2).filter(|_| *first == b'%');
        let code =
            escaped.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        rest = if code.is_some() { &more[2..] } else { more };
        bytes.push(code.unwrap_or(if *first == b'+' { b' ' } else { *first }));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answer(request: &Message, stream: &mut Stream, shared: &Shared) -> Result<()> {
    let asked = Asked::of(request)?;
    let mut state = shared.state();
    state.requests.push(decoded(&request.start));
    if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        drop(state);
        return send(stream, 401, &status(401, "Unauthorized", "Unauthorized"));
    }
    if !state.has(&asked.kind) {
        drop(state);
        let message = "the server could not find the requested resource";
        return send(stream, 404, &status(404, "NotFound", message));
    }
    if matches!(asked.method.as_str(), "POST" | "PATCH") {
        let object = write(&asked, &request.body, &mut state);
        drop(state);
        return match object {
            Some(object) => send(stream, if asked.method == "POST" { 201 } else { 200 }, &object),
            None => send(stream, 400, &status(400, "BadRequest", "this is no event")),
        };
    }
    drop(state);
    if asked.get("watch") == "true" || asked.get("watch") == "1" {
        watch(&asked, stream, shared)
    } else {
        list(&asked, stream, shared)
    }
}

/// Takes an event that a client creates or, with the whole of it, changes.
fn write(asked: &Asked, body: &[u8], state: &mut State) -> Option<Value> {
    let mut object: Value = serde_json::from_slice(body).ok()?;
    if asked.kind != "events" || object["regarding"]["kind"].is_null() {
        return None;
    }
    object["kind"] = "Event".into();
    object["apiVersion"] = "events.k8s.io/v1".into();
    let name = asked.name.clone().or_else(|| Some(object["metadata"]["name"].as_str()?.to_owned()));
    object["metadata"]["name"] = name?.into();
    state.put(object.clone());
    Some(object)
}

fn list(asked: &Asked, stream: &mut Stream, shared: &Shared) -> Result<()> {
    let from: usize = asked.get("continue").parse().unwrap_or(0);
    let most: usize = asked.get("limit").parse().unwrap_or(usize::MAX);
    let mut state = shared.state();
    let cuts = state.cuts;
    while !state.answers(&asked.kind) && state.cuts == cuts {
        state = shared.wait(state);
    }
    let fault = state.take_fault(&asked.kind, from == 0);
    let text = state.list(&asked.kind, &asked.selection(), from, most);
    drop(state);
    match fault {
        None => send_text(stream, 200, &text),
        Some(ListFault::Expired) => {
            let message = "The provided continue parameter is too old";
            send(stream, 410, &status(410, "Expired", message))
        }
        Some(ListFault::Internal) => {
            send(stream, 500, &status(500, "InternalError", "etcdserver: request timed out"))
        }
        Some(ListFault::Cut) => {
            let half = &text.as_bytes()[..text.len() / 2];
            head(stream, 200, &format!("Content-Length: {}", text.len()))?;
            stream.get_mut().write_all(half)?;
            stream.get_mut().flush()?;
            bail!("cut on purpose")
        }
    }
}

fn watch(asked: &Asked, stream: &mut Stream, shared: &Shared) -> Result<()> {
    let version = asked.get("resourceVersion").parse().unwrap_or(0);
    let selection = asked.selection();
    let mut state = shared.state();
    let cuts = state.cuts;
    let Some(mut position) = state.position(&asked.kind, version) else {
        drop(state);
        return send(stream, 410, &status(410, "Expired", "too old resource version"));
    };
    state.count_watch(&asked.kind, true);
    drop(state);
    let result = head(stream, 200, "Transfer-Encoding: chunked").and_then(|()| {
        loop {
            let mut state = shared.state();
            let events = loop {
                let (events, next) = state.events(&asked.kind, &selection, position);
                position = next;
                if !events.is_empty() || state.cuts != cuts {
                    break events;
                }
                state = shared.wait(state);
            };
            let over = state.cuts != cuts;
            drop(state);
            if over {
                bail!("the connection was cut");
            }
            for event in events {
                chunk(stream, &event)?;
                if event["type"] == "ERROR" {
                    bail!("the watch is over");
                }
            }
        }
    });
    shared.state().count_watch(&asked.kind, false);
    result
}

fn head(stream: &mut Stream, code: u16, length: &str) -> Result<()> {
    let head = format!("HTTP/1.1 {code} .\r\nContent-Type: application/json\r\n{length}\r\n\r\n");
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes())?;
    Ok(stream.flush()?)
}

fn send(stream: &mut Stream, code: u16, body: &Value) -> Result<()> {
    send_text(stream, code, &body.to_string())
}

fn send_text(stream: &mut Stream, code: u16, text: &str) -> Result<()> {
    head(stream, code, &format!("Content-Length: {}", text.len()))?;
    let stream = stream.get_mut();
    stream.write_all(text.as_bytes())?;
    Ok(stream.flush()?)
}

fn chunk(stream: &mut Stream, event: &Value) -> Result<()> {
    let text = format!("{event}\n");
    let stream = stream.get_mut();
    write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
    Ok(stream.flush()?)
}
