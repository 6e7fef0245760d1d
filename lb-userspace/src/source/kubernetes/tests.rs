//! The store, with events in every order in which they may come.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::slim::{Kept, Slim};
use super::store::{News, Store};
use crate::model::{EndpointSlice, Node, Service, ServiceCidr};
use crate::source::{Seen, Snapshot, Tally};

fn slim<M: Kept>(object: Value) -> Slim<M> {
    serde_json::from_value(object).unwrap()
}

fn service(name: &str, version: u64, port: u32) -> Slim<Service> {
    slim(json!({
        "metadata": { "name": name, "namespace": "shop", "resourceVersion": version.to_string() },
        "spec": { "clusterIP": "10.96.0.1", "ports": [{ "port": port }] },
    }))
}

fn slice(name: &str, version: u64, addresses: &[&str]) -> Slim<EndpointSlice> {
    let endpoints = addresses.iter().map(|address| json!({ "addresses": [address] }));
    slim(json!({
        "metadata": { "name": name, "namespace": "shop", "resourceVersion": version.to_string(),
            "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{ "port": 8080 }],
    }))
}

/// A store with complete lists of all kinds.
fn store(services: Vec<Slim<Service>>) -> Store {
    let mut store = Store::new(&Arc::default());
    list(&mut store, services);
    store.endpoint_slices.end();
    store.nodes.end();
    store.service_cidrs.end();
    store.take();
    store
}

fn list<M: Kept>(store: &mut Store, objects: Vec<Slim<M>>) {
    let kind = M::store(store);
    kind.begin();
    for object in objects {
        kind.list(object);
    }
    assert_eq!(kind.end(), News::Complete);
}

/// Names and ports of all Services, and how many changes were told.
fn ports(store: &mut Store) -> (Vec<String>, usize) {
    let Snapshot { objects, changes, .. } = store.take();
    let services = objects.services.iter();
    let ports = services.map(|(name, one)| format!("{name}:{}", one.object.ports[0].port));
    (ports.collect(), changes.services.len())
}

#[test]
fn nothing_is_complete_before_all_lists_are() {
    let mut store = Store::new(&Arc::default());
    assert_eq!(store.missing().len(), 4);
    list::<Service>(&mut store, vec![service("a", 1, 80)]);
    list::<EndpointSlice>(&mut store, vec![]);
    list::<Node>(&mut store, vec![]);
    assert_eq!(store.missing(), ["servicecidrs"]);
    store.endpoint_slices.begin();
    store.endpoint_slices.list(slice("a", 2, &["10.0.0.1"]));
    assert_eq!(store.service_cidrs.set_absent(), News::Complete);
    assert_eq!(store.missing(), [""; 0]);
    let snapshot = store.take();
    // The list that is under way is not seen; ranges in force must stay.
    assert!(snapshot.objects.endpoint_slices.is_empty() && snapshot.lost.may_hold_cidrs());
    list::<ServiceCidr>(&mut store, vec![]);
    assert!(!store.take().lost.may_hold_cidrs());
    // An API server that starts says for a moment that there is no such kind.
    assert_eq!(store.service_cidrs.set_absent(), News::None);
}

#[test]
fn events_that_come_twice_or_late_change_nothing() {
    let mut store = store(vec![service("a", 10, 80)]);
    assert_eq!(store.services.apply(service("a", 10, 80)), News::None);
    assert_eq!(store.services.apply(service("a", 12, 81)), News::Complete);
    assert_eq!(store.services.apply(service("a", 11, 82)), News::None);
    assert_eq!(store.services.remove(&service("a", 9, 80)), News::None);
    assert_eq!(ports(&mut store), (vec!["shop/a:81".to_owned()], 1));
    assert_eq!(store.services.remove(&service("a", 13, 81)), News::Complete);
    // Older than its end, and before its new beginning.
    assert_eq!(store.services.apply(service("a", 12, 81)), News::None);
    assert_eq!(ports(&mut store), (vec![], 1));
    assert_eq!(store.services.apply(service("a", 14, 83)), News::Complete);
    assert_eq!(store.services.remove(&service("b", 16, 80)), News::None);
    assert_eq!(store.services.apply(service("b", 15, 80)), News::None);
    assert_eq!(ports(&mut store), (vec!["shop/a:83".to_owned()], 1));
}

#[test]
fn a_list_replaces_everything_and_one_that_fails_nothing() {
    let mut store = store(vec![service("a", 10, 80), service("b", 11, 80)]);
    store.services.begin();
    store.services.list(service("c", 12, 80));
    assert_eq!(ports(&mut store).0, ["shop/a:80", "shop/b:80"]);
    // What was gone while nobody watched is not in the next list. Its versions may
    // be older, where the API server's store was restored.
    list(&mut store, vec![service("b", 5, 90), service("d", 6, 80)]);
    assert_eq!(ports(&mut store), (vec!["shop/b:90".into(), "shop/d:80".into()], 3));
    list(&mut store, vec![service("b", 5, 90), service("d", 6, 80)]);
    let again = store.take();
    assert!(!again.changed, "{:?}", again.changes);
}

#[test]
fn what_goes_bad_keeps_its_last_good_state() {
    let mut store = store(vec![service("a", 10, 80), service("b", 11, 0)]);
    let lost = store.take();
    assert!(!lost.changed, "{:?}", lost.changes);
    assert_eq!(lost.problems.len(), 1, "{:?}", lost.problems);
    assert!(lost.lost.may_hold("shop", "b") && !lost.lost.may_hold("shop", "a"));
    store.services.apply(service("a", 12, 70_000));
    let bad = store.take();
    assert_eq!(bad.objects.services.len(), 1);
    assert_eq!(
        bad.problems[0].to_string(),
        "kubernetes: Service shop/a: spec.ports[0].port: must be a port from 1 to 65535, not \
         70000"
    );
    assert!(bad.changed && bad.lost.may_hold("shop", "b") && !bad.lost.may_hold("shop", "a"));
    // Also over a list.
    list(&mut store, vec![service("a", 13, 70_000), service("b", 14, 80)]);
    let bad = store.take();
    assert_eq!((bad.objects.services.len(), bad.problems.len()), (2, 1));
    store.services.apply(service("a", 15, 81));
    let good = store.take();
    assert!(good.problems.is_empty() && good.lost.is_empty());
}

#[test]
fn an_endpoint_that_leaves_a_slice_may_come_in_another() {
    let mut store = store(vec![]);
    let slices = &mut store.endpoint_slices;
    assert_eq!(slices.apply(slice("one", 1, &["10.0.0.1", "10.0.0.2"])), News::Complete);
    assert_eq!(
        slices.apply(slice("one", 2, &["10.0.0.1", "10.0.0.2", "10.0.0.3"])),
        News::Complete
    );
    assert_eq!(slices.apply(slice("one", 3, &["10.0.0.1"])), News::Half);
    assert_eq!(slices.apply(slice("two", 4, &["10.0.0.2", "10.0.0.3"])), News::Complete);
    assert_eq!(slices.remove(&slice("one", 5, &[])), News::Half);
}

/// A slice with one endpoint, changed for what happened so many seconds from now.
fn triggered(name: &str, version: u64, address: &str, seconds: i64) -> Slim<EndpointSlice> {
    let now = SystemTime::now();
    let offset = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 { now - offset } else { now + offset };
    let at = Timestamp::try_from(at).unwrap().to_string();
    slim(json!({
        "metadata": { "name": name, "namespace": "shop", "resourceVersion": version.to_string(),
            "annotations": { "endpoints.kubernetes.io/last-change-trigger-time": at } },
        "addressType": "IPv4", "endpoints": [{ "addresses": [address] }],
    }))
}

#[test]
fn changes_are_counted_as_they_come_and_only_what_happened_since_the_start_is_timed() {
    let tally = Arc::new(Tally::default());
    let mut store = Store::new(&tally);
    list(&mut store, vec![service("a", 1, 80), service("b", 2, 80)]);
    list(
        &mut store,
        vec![triggered("old", 3, "10.0.0.1", -60), triggered("new", 4, "10.0.0.2", 5)],
    );
    let first = store.take();
    assert_eq!(first.seen, Seen { services: 2, endpoint_slices: 2 });
    assert_eq!(first.triggers.len(), 1, "{:?}", first.triggers);
    // One that changes twice before anybody looks is two changes.
    let slices = &mut store.endpoint_slices;
    slices.apply(triggered("old", 5, "10.0.0.3", 6));
    slices.apply(triggered("old", 6, "10.0.0.4", 7));
    // The same once more, and one that goes, with what was noted of it.
    slices.apply(triggered("old", 7, "10.0.0.4", 8));
    slices.apply(triggered("new", 8, "10.0.0.5", 9));
    slices.apply(triggered("new", 9, "10.0.0.6", 10));
    slices.remove(&triggered("new", 10, "10.0.0.6", 10));
    assert_eq!(tally.seen(), Seen { services: 2, endpoint_slices: 7 });
    let second = store.take();
    assert_eq!(second.seen, tally.seen());
    assert_eq!(second.triggers.len(), 2, "{:?}", second.triggers);
    assert!(store.take().triggers.is_empty());
    // A list in which nothing is new changes nothing.
    list(&mut store, vec![service("a", 1, 80), service("b", 2, 80)]);
    assert_eq!(tally.seen(), Seen { services: 2, endpoint_slices: 7 });
}
