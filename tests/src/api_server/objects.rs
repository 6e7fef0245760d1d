//! What the server has, and what has happened to it.

use super::ListFault;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

/// Kinds by the last part of their URL, with what objects call themselves.
const KINDS: [(&str, &str, &str); 6] = [
    ("services", "Service", "v1"),
    ("endpointslices", "EndpointSlice", "discovery.k8s.io/v1"),
    ("nodes", "Node", "v1"),
    ("servicecidrs", "ServiceCIDR", "networking.k8s.io/v1"),
    ("pods", "Pod", "v1"),
    ("events", "Event", "events.k8s.io/v1"),
];

/// Everything.
#[derive(Debug)]
pub(super) struct State {
    version: u64,
    kinds: BTreeMap<&'static str, Kind>,
    /// Whether nobody is answered.
    pub(super) away: bool,
    /// Whether the server ends.
    pub(super) over: bool,
    /// Most objects of an answer.
    pub(super) most: usize,
    /// Pages of a version.
    pages: (u64, HashMap<String, Arc<str>>),
    pub(super) requests: Vec<String>,
    pub(super) listeners: Vec<TcpListener>,
    /// Connections that are open, to end them.
    pub(super) connections: Vec<TcpStream>,
    /// How often connections were ended.
    pub(super) cuts: u64,
}

/// One kind.
#[derive(Debug, Default)]
struct Kind {
    objects: BTreeMap<String, Value>,
    events: Vec<Event>,
    /// Who asks for what came before this has to list again.
    oldest: u64,
    absent: bool,
    held: bool,
    fault: Option<ListFault>,
    watches: usize,
}

/// What happened to an object.
#[derive(Debug, Clone)]
enum Event {
    /// It is another now.
    Change { version: u64, old: Option<Value>, new: Option<Value> },
    /// Something to be told as it is.
    Raw(Value),
}

/// What a client wants of a kind.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) labels: Vec<String>,
    pub(super) fields: Vec<String>,
}

impl Selection {
    fn has(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let field = |path: &str| {
            path.split('.').fold(object, |value, name| &value[name]).as_str().unwrap_or_default()
        };
        self.labels.iter().all(|term| match term.strip_prefix('!') {
            Some(name) => labels.get(name).is_none(),
            None => labels.get(term.as_str()).is_some(),
        }) && self.fields.iter().all(|term| match term.split_once("!=") {
            Some((path, value)) => field(path) != value,
            None => term.split_once('=').is_some_and(|(path, value)| field(path) == value),
        })
    }
}

fn name(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

fn plural(object: &Value) -> Option<&'static str> {
    let kind = object["kind"].as_str()?;
    KINDS.iter().find(|(_, name, _)| *name == kind).map(|(plural, ..)| *plural)
}

/// An object without its version.
fn content(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

fn number(version: &Value) -> u64 {
    version.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            version: 1,
            kinds: KINDS.iter().map(|(plural, ..)| (*plural, Kind::default())).collect(),
            away: false,
            over: false,
            most: usize::MAX,
            pages: (0, HashMap::new()),
            requests: Vec::new(),
            listeners: Vec::new(),
            connections: Vec::new(),
            cuts: 0,
        }
    }

    pub(super) fn publish(&mut self, items: Vec<Value>) {
        let keys: BTreeSet<(Option<&str>, String)> =
            items.iter().map(|item| (plural(item), name(item))).collect();
        let mut gone = Vec::new();
        for (plural, kind) in &self.kinds {
            // Clients write events, whoever publishes the rest.
            let names = kind
                .objects
                .keys()
                .filter(|_| *plural != "events")
                .filter(|name| !keys.contains(&(Some(*plural), (*name).clone())));
            gone.extend(names.map(|name| (*plural, name.clone())));
        }
        for item in items {
            self.put(item);
        }
        for (plural, name) in gone {
            self.delete(plural, &name);
        }
    }

    pub(super) fn load(&mut self, list: &Value) -> Result<()> {
        let (kind, version) = (list["kind"].as_str(), list["apiVersion"].as_str());
        let kind = kind.and_then(|kind| kind.strip_suffix("List")).context("no list")?;
        for item in list["items"].as_array().context("a list without items")? {
            let mut item = item.clone();
            item["kind"] = kind.into();
            item["apiVersion"] = version.into();
            self.set(item);
        }
        self.version = self.version.max(number(&list["metadata"]["resourceVersion"]));
        Ok(())
    }

    pub(super) fn replay(&mut self, event: &Value) -> Result<()> {
        let object = event["object"].clone();
        let plural = plural(&object).context("an event of an unknown kind")?;
        match event["type"].as_str() {
            Some("DELETED") => {
                let version = number(&object["metadata"]["resourceVersion"]);
                self.remove(plural, &name(&object), version);
            }
            Some("BOOKMARK") => self.tell(plural, event.clone()),
            _ => self.set(object),
        }
        Ok(())
    }

    pub(super) fn put(&mut self, mut object: Value) {
        let known =
            plural(&object).and_then(|plural| self.kinds[plural].objects.get(&name(&object)));
        if known.is_some_and(|known| content(known) == content(&object)) {
            return;
        }
        object["metadata"]["resourceVersion"] = (self.version + 1).to_string().into();
        self.set(object);
    }

    /// Sets an object of a version.
    fn set(&mut self, object: Value) {
        let version = number(&object["metadata"]["resourceVersion"]);
        self.version = self.version.max(version);
        let Some(kind) = plural(&object).and_then(|plural| self.kinds.get_mut(plural)) else {
            return;
        };
        let old = kind.objects.insert(name(&object), object.clone());
        kind.events.push(Event::Change { version, old, new: Some(object) });
    }

    pub(super) fn delete(&mut self, plural: &str, name: &str) {
        self.remove(plural, name, self.version + 1);
    }

    fn remove(&mut self, plural: &str, name: &str, version: u64) {
        self.version = self.version.max(version);
        let Some(kind) = self.kinds.get_mut(plural) else { return };
        let Some(mut old) = kind.objects.remove(name) else { return };
        old["metadata"]["resourceVersion"] = version.to_string().into();
        kind.events.push(Event::Change { version, old: Some(old), new: None });
    }

    pub(super) fn tell(&mut self, plural: &str, event: Value) {
        if let Some(kind) = self.kinds.get_mut(plural) {
            kind.events.push(Event::Raw(event));
        }
    }

    pub(super) fn last_event(&self, plural: &str) -> Option<Value> {
        let last = self.kinds.get(plural)?.events.last()?;
        told(last, &Selection::default())
    }

    pub(super) fn bookmark(&mut self) {
        let version = self.version.to_string();
        for (plural, kind, api_version) in KINDS {
            let object = json!({ "kind": kind, "apiVersion": api_version,
                "metadata": { "resourceVersion": version, "creationTimestamp": null } });
            self.tell(plural, json!({ "type": "BOOKMARK", "object": object }));
        }
    }

    pub(super) fn compact(&mut self) {
        for kind in self.kinds.values_mut() {
            kind.oldest = self.version;
        }
        let kinds: Vec<&str> = self.kinds.keys().copied().collect();
        for plural in kinds {
            let status = status(410, "Expired", "too old resource version");
            self.tell(plural, json!({ "type": "ERROR", "object": status }));
        }
    }

    pub(super) fn cut(&mut self) {
        self.cuts += 1;
        for connection in self.connections.drain(..) {
            // Who has gone need not be told.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn set_absent(&mut self, plural: &str, absent: bool) {
        if let Some(kind) = self.kinds.get_mut(plural) {
            kind.absent = absent;
        }
    }

    pub(super) fn set_held(&mut self, plural: &str, held: bool) {
        if let Some(kind) = self.kinds.get_mut(plural) {
            kind.held = held;
        }
    }

    pub(super) fn set_fault(&mut self, plural: &str, fault: ListFault) {
        if let Some(kind) = self.kinds.get_mut(plural) {
            kind.fault = Some(fault);
        }
    }

    pub(super) fn watches(&self, plural: &str) -> usize {
        self.kinds.get(plural).map_or(0, |kind| kind.watches)
    }

    pub(super) fn count_watch(&mut self, plural: &str, more: bool) {
        if let Some(kind) = self.kinds.get_mut(plural) {
            kind.watches = if more { kind.watches + 1 } else { kind.watches.saturating_sub(1) };
        }
    }

    /// Whether there is such a kind.
    pub(super) fn has(&self, plural: &str) -> bool {
        self.kinds.get(plural).is_some_and(|kind| !kind.absent)
    }

    /// Whether lists of it are answered now.
    pub(super) fn answers(&self, plural: &str) -> bool {
        self.kinds.get(plural).is_none_or(|kind| !kind.held)
    }

    /// How a list fails, if it does: the first page of one never, if it has two.
    pub(super) fn take_fault(&mut self, plural: &str, first: bool) -> Option<ListFault> {
        let kind = self.kinds.get_mut(plural)?;
        let applies = match kind.fault? {
            ListFault::Expired | ListFault::Cut => !first,
            ListFault::Internal => true,
        };
        if applies { kind.fault.take() } else { None }
    }

    /// A page of a list, from the object with a number on. It is made once for
    /// each version, so that who measures its clients does not measure this.
    pub(super) fn list(
        &mut self,
        plural: &str,
        wanted: &Selection,
        from: usize,
        most: usize,
    ) -> Arc<str> {
        if self.pages.0 != self.version {
            self.pages = (self.version, HashMap::new());
        }
        let most = most.min(self.most);
        let key = format!("{plural} {wanted:?} {from} {most}");
        if let Some(page) = self.pages.1.get(&key) {
            return Arc::clone(page);
        }
        let page: Arc<str> = self.page(plural, wanted, from, most).to_string().into();
        self.pages.1.insert(key, Arc::clone(&page));
        page
    }

    fn page(&self, plural: &str, wanted: &Selection, from: usize, most: usize) -> Value {
        let kind = &self.kinds[plural];
        let all: Vec<&Value> = kind.objects.values().filter(|one| wanted.has(one)).collect();
        let items: Vec<Value> = all.iter().skip(from).take(most).map(|one| untyped(one)).collect();
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        let next = from.saturating_add(items.len());
        if next < all.len() {
            metadata["continue"] = next.to_string().into();
        }
        let (_, name, api_version) =
            KINDS.into_iter().find(|(one, ..)| *one == plural).unwrap_or(KINDS[0]);
        json!({ "kind": format!("{name}List"), "apiVersion": api_version, "metadata": metadata,
                "items": items })
    }

    /// All objects of a kind.
    pub(super) fn objects(&self, plural: &str) -> Vec<Value> {
        self.kinds
            .get(plural)
            .map_or_else(Vec::new, |kind| kind.objects.values().cloned().collect())
    }

    /// Where a watch from a version begins; none if that is too long ago.
    pub(super) fn position(&self, plural: &str, version: u64) -> Option<usize> {
        let kind = &self.kinds[plural];
        if version < kind.oldest {
            return None;
        }
        let later = |event: &Event| match event {
            Event::Change { version: own, .. } => *own > version,
            Event::Raw(_) => false,
        };
        Some(kind.events.iter().position(later).unwrap_or(kind.events.len()))
    }

    /// What a watch has to tell from a position on.
    pub(super) fn events(
        &self,
        plural: &str,
        wanted: &Selection,
        from: usize,
    ) -> (Vec<Value>, usize) {
        let events = &self.kinds[plural].events;
        let new = events.iter().skip(from).filter_map(|event| told(event, wanted)).collect();
        (new, events.len())
    }
}

/// Items of lists don't say what they are.
fn untyped(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

/// What a watch tells of an event: what leaves a selection is gone for it.
fn told(event: &Event, wanted: &Selection) -> Option<Value> {
    let (version, old, new) = match event {
        Event::Raw(event) => return Some(event.clone()),
        Event::Change { version, old, new } => (version, old.as_ref(), new.as_ref()),
    };
    let (was, is) = (old.filter(|one| wanted.has(one)), new.filter(|one| wanted.has(one)));
    let (kind, object) = match (was, is) {
        (None, None) => return None,
        (None, Some(object)) => ("ADDED", object.clone()),
        (Some(_), Some(object)) => ("MODIFIED", object.clone()),
        (Some(object), None) => {
            let mut object = object.clone();
            object["metadata"]["resourceVersion"] = version.to_string().into();
            ("DELETED", object)
        }
    };
    Some(json!({ "type": kind, "object": object }))
}

/// What the server says where it does not do what it was asked for.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code })
}
