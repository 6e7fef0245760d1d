//! What the API has told so far, by kind. A list replaces what was known as a
//! whole and only when it is complete; events change single objects. What is
//! known never goes because the API can't be asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::slim::{Kept, Slim};
use crate::desired::{Problem, Severity};
use crate::model::{
    Changed, Changes, EndpointSlice, Finding, Kind, Node, ObjectName, Objects, Service,
    ServiceCidr, Sourced, is_same,
};
use crate::source::{Lost, Snapshot, Tally, Trigger};

/// What stands for a file where people are told of objects.
const FILE: &str = "kubernetes";

/// For how many objects that are gone their last version is remembered, at
/// least. Events that come late come soon.
const GONE: usize = 1024;

/// What a change means for those who follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing.
    None,
    /// Something that makes sense by itself.
    Complete,
    /// Something ends that may begin anew with the next change.
    Half,
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) services: KindStore<Service>,
    pub(super) endpoint_slices: KindStore<EndpointSlice>,
    pub(super) nodes: KindStore<Node>,
    pub(super) service_cidrs: KindStore<ServiceCidr>,
    /// What was handed over.
    objects: Arc<Objects>,
    file: Arc<str>,
    tally: Arc<Tally>,
    /// Whether anything was handed over.
    told: bool,
}

impl Store {
    /// Knows nothing.
    pub(super) fn new(tally: &Arc<Tally>) -> Self {
        let counted = |count: &Arc<AtomicU64>| Arc::clone(count);
        Self {
            services: KindStore { seen: counted(&tally.services), ..KindStore::default() },
            endpoint_slices: KindStore {
                seen: counted(&tally.endpoint_slices),
                ..KindStore::default()
            },
            nodes: KindStore::default(),
            service_cidrs: KindStore::default(),
            objects: Arc::default(),
            file: FILE.into(),
            tally: Arc::clone(tally),
            told: false,
        }
    }

    /// The kinds of which no list was complete yet.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        fn missing<M: Kept>(kind: &KindStore<M>) -> Option<&'static str> {
            (!kind.complete && !kind.absent).then_some(M::PLURAL)
        }
        let all = [
            missing(&self.services),
            missing(&self.endpoint_slices),
            missing(&self.nodes),
            missing(&self.service_cidrs),
        ];
        all.into_iter().flatten().collect()
    }

    /// What tells an object from others of the same name, if it is known.
    pub(super) fn uid(&self, kind: Kind, name: &ObjectName) -> Option<String> {
        match kind {
            Kind::Service => self.services.uid(name),
            Kind::EndpointSlice => self.endpoint_slices.uid(name),
            Kind::Node => self.nodes.uid(name),
            Kind::ServiceCidr => self.service_cidrs.uid(name),
            Kind::Pod => None,
        }
    }

    /// Hands over everything, with what is different from last time.
    pub(super) fn take(&mut self) -> Snapshot {
        let Self { services, endpoint_slices, nodes, service_cidrs, objects, file, .. } = self;
        let seen = self.tally.seen();
        let triggers = endpoint_slices.triggers.drain(..).filter_map(|(_, slice, at)| {
            let family = slice.family?;
            Some(Trigger { family, at })
        });
        let triggers = triggers.collect();
        let objects = Arc::make_mut(objects);
        let changes = Changes {
            services: services.hand_over(&mut objects.services, file),
            endpoint_slices: endpoint_slices.hand_over(&mut objects.endpoint_slices, file),
            pods: Vec::new(),
            nodes: nodes.hand_over(&mut objects.nodes, file),
            service_cidrs: service_cidrs.hand_over(&mut objects.service_cidrs, file),
        };
        let mut lost = Lost::default();
        let mut problems = Vec::new();
        services.judge(&mut problems, &mut lost);
        endpoint_slices.judge(&mut problems, &mut lost);
        nodes.judge(&mut problems, &mut lost);
        service_cidrs.judge(&mut problems, &mut lost);
        if service_cidrs.absent && !service_cidrs.complete {
            // An API server that starts may not have them yet.
            lost.object(ServiceCidr::KIND, ObjectName::default());
        }
        let judged = [
            &mut services.judged,
            &mut endpoint_slices.judged,
            &mut nodes.judged,
            &mut service_cidrs.judged,
        ];
        let judged = judged.map(std::mem::take).contains(&true);
        let first = !std::mem::replace(&mut self.told, true);
        let differs = first || judged || changes != Changes::default();
        let objects = Arc::clone(&self.objects);
        Snapshot { objects, changes, problems, lost, seen, triggers, changed: differs }
    }
}

/// What is known of one kind.
#[derive(Debug)]
pub(super) struct KindStore<M> {
    known: BTreeMap<ObjectName, Known<M>>,
    /// The list that is under way.
    fresh: BTreeMap<ObjectName, Known<M>>,
    /// Whether a list was complete once.
    complete: bool,
    /// Whether the API has no such objects, or does not show them.
    absent: bool,
    /// Objects that may differ from what was handed over.
    touched: BTreeSet<ObjectName>,
    /// Objects with findings.
    faulty: BTreeSet<ObjectName>,
    /// Whether findings have changed since they were handed over.
    judged: bool,
    gone: Gone,
    /// How many changes there were.
    seen: Arc<AtomicU64>,
    /// When what changed objects happened, since they were handed over.
    triggers: Vec<(ObjectName, Arc<M>, SystemTime)>,
    /// What happened before was not this agent's to bring in force.
    started: SystemTime,
}

#[derive(Clone, Debug)]
struct Known<M> {
    version: Option<u64>,
    uid: Option<Box<str>>,
    /// Its last good state.
    object: Option<Arc<M>>,
    /// What is wrong with its last state.
    findings: Vec<Finding>,
    /// When what changed it last happened.
    trigger: Option<SystemTime>,
}

impl<M> Default for KindStore<M> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            fresh: BTreeMap::new(),
            complete: false,
            absent: false,
            touched: BTreeSet::new(),
            faulty: BTreeSet::new(),
            judged: false,
            gone: Gone::default(),
            seen: Arc::default(),
            triggers: Vec::new(),
            started: SystemTime::now(),
        }
    }
}

impl<M: Kept> KindStore<M> {
    /// A list begins; one that was under way is void.
    pub(super) fn begin(&mut self) {
        self.fresh.clear();
    }

    /// The next object of a list.
    pub(super) fn list(&mut self, slim: Slim<M>) {
        let name = slim.name();
        let known = Known::new(slim, self.known.get(&name));
        self.fresh.insert(name, known);
    }

    /// The list is complete: it is the truth, whatever the versions say, as the
    /// API server's count starts anew where its store was restored.
    pub(super) fn end(&mut self) -> News {
        let fresh = std::mem::take(&mut self.fresh);
        let old = std::mem::replace(&mut self.known, fresh);
        let same = |name: &ObjectName, known: &Known<M>| {
            let other = self.known.get(name).and_then(|known| known.object.as_ref());
            other.map(Arc::as_ptr) == known.object.as_ref().map(Arc::as_ptr)
        };
        let changed = old.iter().filter(|(name, one)| !same(name, one)).map(|(name, _)| name);
        let new = self.known.keys().filter(|name| !old.contains_key(name));
        let differ: Vec<ObjectName> = changed.chain(new).cloned().collect();
        for name in &differ {
            self.count(name);
        }
        self.touched.extend(differ);
        let faulty = self.known.iter().filter(|(_, known)| !known.findings.is_empty());
        let faulty: BTreeSet<ObjectName> = faulty.map(|(name, _)| name.clone()).collect();
        self.judged |= !faulty.is_empty() || !self.faulty.is_empty();
        self.faulty = faulty;
        self.gone = Gone::default();
        (self.complete, self.absent) = (true, false);
        News::Complete
    }

    /// There are no such objects, as far as this API server tells. What is known
    /// stays.
    pub(super) fn set_absent(&mut self) -> News {
        if self.absent || self.complete {
            return News::None;
        }
        self.absent = true;
        News::Complete
    }

    /// An object came or changed.
    pub(super) fn apply(&mut self, slim: Slim<M>) -> News {
        let (name, version) = (slim.name(), slim.version());
        let old = self.known.get(&name);
        let overtaken = match old {
            Some(known) => is_older(version, known.version),
            None => is_older(version, self.gone.version(&name)),
        };
        if overtaken {
            return News::None;
        }
        let new = Known::new(slim, old);
        let news = match (old.and_then(|old| old.object.as_deref()), new.object.as_deref()) {
            (Some(old), Some(new)) if std::ptr::eq(old, new) => News::None,
            (Some(old), new) if M::takes_away(old, new) => News::Half,
            _ => News::Complete,
        };
        let judged = old.map_or(&[][..], |old| &old.findings) != new.findings;
        self.judged |= judged;
        if new.findings.is_empty() {
            self.faulty.remove(&name);
        } else {
            self.faulty.insert(name.clone());
        }
        self.known.insert(name.clone(), new);
        if news != News::None {
            self.count(&name);
        }
        self.touched.insert(name);
        if judged && news == News::None { News::Complete } else { news }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, slim: &Slim<M>) -> News {
        let (name, version) = (slim.name(), slim.version());
        let Some(known) = self.known.get(&name) else {
            self.gone.remember(name, version);
            return News::None;
        };
        if is_older(version, known.version) {
            return News::None;
        }
        let half = known.object.as_deref().is_some_and(|old| M::takes_away(old, None));
        // What is noted on it is the time of an earlier change.
        self.triggers.retain(|(object, ..)| *object != name);
        self.known.remove(&name);
        self.count(&name);
        self.judged |= self.faulty.remove(&name);
        self.touched.insert(name.clone());
        self.gone.remember(name, version);
        if half { News::Half } else { News::Complete }
    }

    /// An object changed.
    fn count(&mut self, name: &ObjectName) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let Some(Known { object: Some(object), trigger: Some(at), .. }) = self.known.get(name)
        else {
            return;
        };
        if M::KIND == Kind::EndpointSlice && *at > self.started {
            self.triggers.push((name.clone(), Arc::clone(object), *at));
        }
    }

    /// What tells an object from others of the same name.
    fn uid(&self, name: &ObjectName) -> Option<String> {
        self.known.get(name)?.uid.as_deref().map(str::to_owned)
    }

    /// Brings what was handed over up to date.
    fn hand_over(
        &mut self,
        objects: &mut BTreeMap<ObjectName, Sourced<M>>,
        file: &Arc<str>,
    ) -> Vec<Changed<M>> {
        let mut changes = Vec::new();
        for name in std::mem::take(&mut self.touched) {
            let object = self.known.get(&name).and_then(|known| known.object.as_ref());
            let new =
                object.map(|object| Sourced { file: Arc::clone(file), object: Arc::clone(object) });
            if is_same(objects.get(&name), new.as_ref()) {
                continue;
            }
            let old = match &new {
                Some(new) => objects.insert(name.clone(), new.clone()),
                None => objects.remove(&name),
            };
            changes.push(Changed { name, old, new });
        }
        changes
    }

    /// Tells what is wrong.
    fn judge(&self, problems: &mut Vec<Problem>, lost: &mut Lost) {
        for (name, known) in self.faulty.iter().filter_map(|name| self.known.get_key_value(name)) {
            let refused = known.findings.iter().any(|one| one.severity == Severity::Error);
            if refused && known.object.is_none() {
                lost.object(M::KIND, name.clone());
            }
            problems.extend(known.findings.iter().map(|finding| Problem {
                severity: finding.severity,
                file: FILE.to_owned(),
                object: Some(format!("{} {name}", M::KIND.name())),
                field: Some(finding.field.clone()).filter(|field| !field.is_empty()),
                message: finding.message.clone(),
            }));
        }
    }
}

impl<M: Kept> Known<M> {
    /// What an object becomes that was known as `old`: the same allocation if
    /// nothing differs, and its last good state if it is refused.
    fn new(slim: Slim<M>, old: Option<&Self>) -> Self {
        let (version, uid) = (slim.version(), slim.uid().map(Into::into));
        let Slim { object, findings, trigger, .. } = slim;
        let last = old.and_then(|old| old.object.as_ref());
        let object = match (object, last) {
            (Some(new), Some(last)) if new == *last => Some(Arc::clone(last)),
            (Some(new), _) => Some(new),
            (None, last) => last.cloned(),
        };
        Self { version, uid, object, findings, trigger }
    }
}

/// Whether a version is known to be older than another.
fn is_older(version: Option<u64>, than: Option<u64>) -> bool {
    matches!((version, than), (Some(version), Some(than)) if version < than)
}

/// The versions with which objects went, so that events that are older don't
/// bring them back. Two lots, of which the older is dropped as a whole, bound it.
#[derive(Debug, Default)]
struct Gone {
    recent: HashMap<ObjectName, u64>,
    earlier: HashMap<ObjectName, u64>,
}

impl Gone {
    fn remember(&mut self, name: ObjectName, version: Option<u64>) {
        let Some(version) = version else { return };
        if self.recent.len() >= GONE {
            self.earlier = std::mem::take(&mut self.recent);
        }
        let known = self.recent.entry(name).or_default();
        *known = version.max(*known);
    }

    fn version(&self, name: &ObjectName) -> Option<u64> {
        [&self.recent, &self.earlier].into_iter().filter_map(|lot| lot.get(name).copied()).max()
    }
}
