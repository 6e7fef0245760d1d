//! The forms in which a text may be cut, and where pieces begin and end.

use memchr::{memchr, memchr_iter, memchr2, memchr3, memmem};
use serde_json::Value;

use super::document;

/// Most bytes that a list may have around its items.
const MAX_FRAME: usize = 16 * 1024;
/// The list must begin in one of the first lines.
const MAX_HEAD_LINES: usize = 64;

/// What pieces are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Items of a YAML list, each with its hyphen: lines that are indented
    /// further than the hyphen go on with its item, whatever they are part of.
    YamlItem,
    /// Items of a JSON list, as programs print it for people or for others. Where
    /// the cuts are is only guessed: if each piece is a value by itself, and the rest is a
    /// list, then so is the whole, and it has exactly these items.
    JsonItem,
    /// Documents of a YAML stream: three hyphens at the left edge begin one,
    /// whatever they seem to be part of.
    Document,
    /// The file as a whole.
    File,
}

/// How a text is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) form: Form,
    indent: usize,
    /// Ends a JSON item, begins the next. If nothing but the brace itself ends
    /// it, items are on one line.
    between: [String; 2],
}

impl Layout {
    /// The layout of a text, and where its first piece begins.
    pub(super) fn of(text: &str, json_only: bool) -> Option<(Self, usize)> {
        if text.starts_with('{') {
            return Self::json(text);
        }
        if json_only {
            return None;
        }
        Self::list(text).or_else(|| Self::documents(text))
    }

    fn list(text: &str) -> Option<(Self, usize)> {
        let first = head_len(text)?;
        let body = &text[first..];
        let indent = body.bytes().take_while(|byte| *byte == b' ').count();
        let between = Default::default();
        body[indent..]
            .starts_with("- ")
            .then_some((Self { form: Form::YamlItem, indent, between }, first))
    }

    fn json(text: &str) -> Option<(Self, usize)> {
        let name = memmem::find(text.as_bytes(), b"\"items\"")?;
        let open = name + text[name..].find('[')? + 1;
        let body = &text[open..];
        let margin = body.len() - body.trim_start_matches(['\n', ' ']).len();
        let (indent, between) = if let Some(indent) = body[..margin].strip_prefix('\n') {
            (indent.len(), [format!("\n{indent}}}"), format!(",\n{indent}{{")])
        } else {
            let rest = &body[margin + object_len(&body.as_bytes()[margin..])?..];
            let gap = rest.len() - rest.strip_prefix(',')?.trim_start_matches(' ').len();
            (0, ["}".to_owned(), rest[..gap].to_owned() + "{"])
        };
        let layout = Self { form: Form::JsonItem, indent, between };
        body[margin..].starts_with('{').then_some((layout, open + margin))
    }

    fn documents(text: &str) -> Option<(Self, usize)> {
        let between = Default::default();
        let layout = Self { form: Form::Document, indent: 0, between };
        let first = if text.starts_with("---") { layout.next(text, 0)? } else { 0 };
        // Without a second document it is none.
        memmem::find(text.as_bytes(), b"\n---").map(|_| (layout, first))
    }

    /// Where the piece ends that begins at `start`; none if it holds what may
    /// have another meaning in a whole.
    pub(super) fn end(&self, text: &str, start: usize) -> Option<usize> {
        let rest = &text[start..];
        let len = match self.form {
            Form::YamlItem => {
                let ends = |newline: &usize| !self.goes_on(&rest.as_bytes()[newline + 1..]);
                memchr_iter(b'\n', rest.as_bytes()).find(ends).map_or(rest.len(), |at| at + 1)
            }
            Form::JsonItem if self.between[0] == "}" => object_len(rest.as_bytes())?,
            Form::JsonItem => {
                let close = &self.between[0];
                memmem::find(rest.as_bytes(), close.as_bytes())? + close.len()
            }
            Form::Document if rest.starts_with("---") => 0,
            Form::Document => {
                memmem::find(rest.as_bytes(), b"\n---").map_or(rest.len(), |at| at + 1)
            }
            Form::File => return None,
        };
        let piece = &rest[..len];
        let fit = match self.form {
            Form::YamlItem => !has_other_line_breaks(piece),
            Form::JsonItem | Form::File => true,
            Form::Document => !has_other_line_breaks(piece) && !has_directives(piece),
        };
        fit.then_some(start + len)
    }

    /// Whether a piece that has no end within may end here.
    pub(super) fn is_end(&self, text: &str, end: usize) -> bool {
        let (before, rest) = text.as_bytes().split_at(end);
        match self.form {
            Form::YamlItem => rest.is_empty() || (before.ends_with(b"\n") && !self.goes_on(rest)),
            Form::JsonItem => before.ends_with(b"}"),
            Form::Document => {
                rest.is_empty() || (before.ends_with(b"\n") && rest.starts_with(b"---"))
            }
            Form::File => false,
        }
    }

    /// Whether a line goes on with an item.
    fn goes_on(&self, line: &[u8]) -> bool {
        let margin = self.indent + 2;
        line.first() == Some(&b'\n')
            || (line.len() >= margin && line[..margin].iter().all(|byte| *byte == b' '))
    }

    /// Where the next piece begins after one that ends at `end`.
    pub(super) fn next(&self, text: &str, end: usize) -> Option<usize> {
        let rest = &text[end..];
        match self.form {
            Form::YamlItem => {
                let item = rest.as_bytes().get(self.indent..)?.starts_with(b"- ");
                let margin = rest.bytes().take(self.indent).all(|byte| byte == b' ');
                (item && margin).then_some(end)
            }
            Form::JsonItem => {
                let begin = &self.between[1];
                rest.starts_with(begin.as_str()).then(|| end + begin.len() - 1)
            }
            Form::Document => match rest.strip_prefix("---")? {
                "" => Some(text.len()),
                rest => rest.starts_with('\n').then_some(end + "---\n".len()),
            },
            Form::File => None,
        }
    }

    /// What is between two pieces.
    pub(super) fn gap(&self) -> &[u8] {
        match self.form {
            Form::YamlItem | Form::File => b"",
            Form::JsonItem => self.between[1].as_bytes().strip_suffix(b"{").unwrap_or_default(),
            Form::Document => b"---\n",
        }
    }

    /// Whether a piece may begin there.
    pub(super) fn begins(&self, text: &str, start: usize) -> bool {
        match self.form {
            Form::YamlItem => self.next(text, start) == Some(start),
            Form::JsonItem => text[start..].starts_with('{'),
            Form::Document => true,
            Form::File => false,
        }
    }

    /// Whether a piece that others follow may end like this.
    pub(super) fn may_end(&self, piece: &str) -> bool {
        match self.form {
            Form::YamlItem | Form::Document => piece.ends_with('\n'),
            Form::JsonItem => piece.ends_with('}'),
            Form::File => false,
        }
    }

    /// Whether what is around the pieces is a list and nothing else.
    pub(super) fn is_whole(&self, [head, tail]: [&str; 2]) -> bool {
        match self.form {
            Form::YamlItem => frame(head, tail, false).is_some_and(|items| items.is_null()),
            Form::JsonItem => frame(head, tail, true)
                .is_some_and(|items| items.as_array().is_some_and(Vec::is_empty)),
            Form::Document => tail.is_empty(),
            Form::File => false,
        }
    }
}

/// Where the object ends that a JSON text begins with: at the brace that belongs
/// to its first, of those that are in no string.
fn object_len(text: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        at += memchr3(b'{', b'}', b'"', text.get(at..)?)?;
        match text[at] {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => at = string_end(text, at + 1)?,
        }
        at += 1;
    }
}

/// Where the quote is that ends a JSON string.
fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

/// Whether parsers may see more lines, or fewer bytes, than we do.
fn has_other_line_breaks(text: &str) -> bool {
    let rare = ['\u{85}', '\u{2028}', '\u{2029}', '\u{feff}'];
    memchr(b'\r', text.as_bytes()).is_some() || (!text.is_ascii() && text.contains(rare))
}

/// Whether a document may hold directives, or end before its end.
fn has_directives(text: &str) -> bool {
    let marks = [b"\n%".as_slice(), b"\n..."];
    text.starts_with(['%', '.', '-'])
        || marks.iter().any(|mark| memmem::find(text.as_bytes(), mark).is_some())
}

/// Where the items of a YAML list begin.
fn head_len(text: &str) -> Option<usize> {
    let mut len = 0;
    for line in text.split_inclusive('\n').take(MAX_HEAD_LINES) {
        let is_first = len == 0;
        len += line.len();
        if line == "items:\n" {
            return Some(len);
        }
        // No second document, no directives.
        let begins = is_first && line == "---\n";
        let harmless =
            begins || line.starts_with(|c: char| c.is_ascii_alphabetic() || " #\n".contains(c));
        if !harmless {
            return None;
        }
    }
    None
}

/// What a list has for items if those that were cut out are left out; none if it
/// is not a list, or not the only thing.
fn frame(head: &str, tail: &str, json: bool) -> Option<Value> {
    let text = [head, tail].concat();
    if text.len() > MAX_FRAME || (!json && has_other_line_breaks(&text)) {
        return None;
    }
    let mut documents = document::parse(&text, json).ok()?;
    let Some(Value::Object(mut list)) = documents.pop().filter(|_| documents.is_empty()) else {
        return None;
    };
    let word = |field: &str| list.get(field).and_then(Value::as_str);
    let is_list = word("kind") == Some("List")
        && word("apiVersion").is_some_and(|version| !version.is_empty() && !version.contains('/'));
    list.remove("items").filter(|_| is_list)
}
