//! Large dumps, as kubectl prints them, item by item: an item whose text is as it
//! was is not parsed again, and the others are parsed on all processors. With
//! 10,000 Services in one file, a change is in force in a tenth of the time.
//!
//! Only the exact form that kubectl prints is cut; for all else, and whenever an
//! item is not good YAML by itself, the answer is none and the file is parsed as
//! a whole, which also gives errors their right place.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZero;
use std::thread;

use serde_json::Value;

use super::document;
use super::object::{self, DecodedFile};

/// Dumps with fewer items are parsed fast enough as a whole.
const MIN_ITEMS: usize = 32;
/// What kubectl prints before the first item.
const HEAD: &str = "apiVersion: v1\nitems:\n";

/// Items of a dump that are known, by the hash of their text.
#[derive(Debug, Default)]
pub(super) struct Dump {
    known: HashMap<u64, DecodedFile>,
}

impl Dump {
    /// Everything that the dump holds; none if the text is not such a dump.
    pub(super) fn decode(&mut self, text: &str) -> Option<DecodedFile> {
        let items = items(text)?;
        let hashes: Vec<u64> = items.iter().map(|item| hash(item)).collect();
        let news: Vec<usize> =
            (0..items.len()).filter(|&index| !self.known.contains_key(&hashes[index])).collect();
        let parsed = parse(&items, &news)?;
        let mut old = std::mem::take(&mut self.known);
        for (&index, decoded) in news.iter().zip(parsed) {
            old.insert(hashes[index], decoded);
        }
        let mut all = DecodedFile::default();
        for hash in hashes {
            // Items that are there twice are known twice.
            if let Some(decoded) = old.remove(&hash) {
                self.known.insert(hash, decoded);
            }
            all.append(self.known.get(&hash)?.clone());
        }
        Some(all)
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The texts of the items of a dump. In a block sequence at the left edge, a line
/// that begins with a hyphen begins an item and indented lines go on with it.
fn items(text: &str) -> Option<Vec<&str>> {
    let body = text.strip_prefix(HEAD)?;
    let mut items = Vec::new();
    let mut start = None;
    let mut end = 0;
    for line in body.split_inclusive('\n') {
        if line.starts_with("- ") {
            items.extend(start.replace(end).map(|start: usize| &body[start..end]));
        } else if !line.starts_with("  ") {
            break;
        }
        end += line.len();
    }
    items.push(&body[start?..end]);
    // What follows must be the rest of this list and nothing else.
    let rest = document::parse(&format!("{HEAD}{}", &body[end..]), false).ok()?;
    let [Value::Object(list)] = rest.as_slice() else {
        return None;
    };
    let is_list = list.get("kind").is_some_and(|kind| kind == "List")
        && list.get("items").is_some_and(Value::is_null);
    (is_list && items.len() >= MIN_ITEMS).then_some(items)
}

/// Parses the chosen items; none if one of them is not good by itself.
fn parse(items: &[&str], chosen: &[usize]) -> Option<Vec<DecodedFile>> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let share = chosen.len().div_ceil(processors).max(MIN_ITEMS);
    let work = |chosen: &[usize]| -> Option<Vec<DecodedFile>> {
        chosen.iter().map(|&index| item(items[index], index)).collect()
    };
    thread::scope(|scope| {
        let workers: Vec<_> =
            chosen.chunks(share).map(|chosen| scope.spawn(move || work(chosen))).collect();
        let mut all = Vec::with_capacity(chosen.len());
        for worker in workers {
            all.extend(worker.join().ok()??);
        }
        Some(all)
    })
}

fn item(text: &str, index: usize) -> Option<DecodedFile> {
    let mut documents = document::parse_part(text).ok()?;
    let Some(Value::Array(mut list)) = documents.pop().filter(|_| documents.is_empty()) else {
        return None;
    };
    let item = list.pop().filter(|_| list.is_empty())?;
    object::decode_item(item, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: usize) -> String {
        format!("- apiVersion: v1\n  kind: Node\n  metadata:\n    name: n{name}\n")
    }

    fn dump(nodes: impl IntoIterator<Item = String>) -> String {
        let nodes: String = nodes.into_iter().collect();
        format!("{HEAD}{nodes}kind: List\nmetadata:\n  resourceVersion: \"\"\n")
    }

    fn names(decoded: &DecodedFile) -> Vec<String> {
        decoded.objects.iter().filter_map(|one| one.label.clone()).collect()
    }

    #[test]
    fn items_are_the_same_as_in_the_whole_and_known_ones_are_kept() {
        let text = dump((0..100).map(node));
        let whole = object::decode(document::parse(&text, false).unwrap());
        let mut cut = Dump::default();
        assert_eq!(names(&cut.decode(&text).unwrap()), names(&whole));
        assert_eq!(cut.known.len(), 100);
        // An item more and one less: the others are not parsed again.
        let text = dump((1..101).map(node));
        let decoded = cut.decode(&text).unwrap();
        assert_eq!(names(&decoded).first().map(String::as_str), Some("Node n1"));
        assert_eq!(names(&decoded).last().map(String::as_str), Some("Node n100"));
        assert_eq!(cut.known.len(), 100);
        // The same item twice is two objects.
        let twice = dump((0..50).chain(0..50).map(node));
        assert_eq!(names(&cut.decode(&twice).unwrap()).len(), 100);
    }

    #[test]
    fn what_is_not_exactly_a_dump_is_left_to_the_parser_of_whole_files() {
        let good = dump((0..40).map(node));
        assert!(Dump::default().decode(&good).is_some());
        let cases = [
            dump((0..10).map(node)),
            good.replace("kind: List", "kind: ServiceList"),
            good.replace("kind: List", "items: []\nkind: List"),
            good.replace("kind: List", "# note\n- apiVersion: v1\nkind: List"),
            format!("{good}---\na: 1\n"),
            good.replace("name: n7", "name: [n7"),
            good.replace("name: n7", "name: &a n7").replace("name: n8", "name: *a"),
            good.replace("name: n7", "name: &a n7\n    namespace: *a"),
            good.replace("name: n7", "name: n7\n    name: n7"),
            good.replace("name: n7", "name: \"n7\n- x\""),
            good.replace("- apiVersion: v1\n  kind: Node\n  metadata:\n    name: n7\n", "- null\n"),
            String::new(),
            HEAD.to_owned(),
        ];
        for case in cases {
            assert!(Dump::default().decode(&case).is_none(), "{case}");
        }
    }
}
