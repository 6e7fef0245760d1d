//! The real flow tables, without traffic: reading them, and forgetting what is
//! over.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use lb_common::flow::{
    IDLE_CLOSING, IDLE_DATAGRAM, IDLE_DATAGRAMS, IDLE_ESTABLISHED, IDLE_TRANSIENT, Stage,
    TIME_WAIT, flag,
};
use lb_common::tcp::state::{ASSURED, BACKEND_FIN, CLIENT_FIN, REPLIED, RESET};
use lb_common::value::backend_state;
use lb_common::{Backend, BePort, Flow, FlowKey, V4, V6, names};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege;
use lb_userspace::dataplane::maps::{FlowFamily, FlowRows, FlowTable, Maps, costs};
use lb_userspace::dataplane::{HookOptions, Hooks, MapSizes, PinDir, cleanup, outgrown};
use lb_userspace::flows::{FlowFilter, Reason, Sweeper, Swept, census, list};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Both sides have sent, and the client once more.
const OPEN: u8 = REPLIED | ASSURED;
/// Far from the clock's beginning, and from what any test row may be silent.
const NOW: u64 = 1 << 50;
const SECOND: u64 = 1_000_000_000;
const BACKEND: u32 = 3;

/// Loaded maps, removed when dropped.
struct Pins {
    _netns: Namespace,
    path: PathBuf,
}

impl Pins {
    fn load(sizes: MapSizes) -> Self {
        let netns = Namespace::new(Naming::Unique, "flows").unwrap();
        let path = Path::new("/sys/fs/bpf").join(netns.name());
        let options = HookOptions { sizes, ..HookOptions::new(&path) };
        drop(netns.run(|| Hooks::open(&options).map_err(|error| error.to_string())).unwrap());
        let pins = Self { _netns: netns, path };
        pins.backend(backend_state::ACTIVE);
        pins
    }

    fn small() -> Self {
        Self::load(MapSizes { flows_v4: 8192, flows_v6: 8192, ..MapSizes::default() })
    }

    fn backend(&self, state: u8) {
        let row = Backend { state, generation: 1, ..Backend::default() };
        Maps::open(&self.path).unwrap().backends.set(BACKEND, &row).unwrap();
    }

    fn table<A: FlowFamily>(&self) -> FlowTable<A> {
        FlowTable::open(&self.path).unwrap()
    }

    fn sweep(&self) -> Swept {
        Sweeper::open(&self.path).unwrap().sweep(NOW).unwrap()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = cleanup(&self.path);
    }
}

/// A family whose addresses are made of numbers.
trait Numbered: FlowFamily {
    fn number(n: u32) -> Self;
}

impl Numbered for V4 {
    fn number(n: u32) -> Self {
        Self(n.to_be())
    }
}

impl Numbered for V6 {
    fn number(n: u32) -> Self {
        Self([0xfd, 0, 0, n.to_be()])
    }
}

/// The flow of a client, silent since a while.
fn flow<A: Numbered>(client: u32, proto: u8, tcp: u8, silence: u64) -> Flow<A> {
    Flow {
        last_used: NOW - silence,
        backend: BACKEND,
        generation: 1,
        proto,
        tcp,
        client: A::number(0x0a00_0000 + client),
        client_port: BePort::new(4000),
        source_port: BePort::new(4000),
        frontend: A::number(0x0a60_0001),
        frontend_port: BePort::new(80),
        backend_addr: A::number(0x0af4_0001),
        backend_port: BePort::new(8080),
        ..Flow::default()
    }
}

/// With this node's address as its source.
fn masqueraded<A: Numbered>(flow: Flow<A>, port: u16) -> Flow<A> {
    Flow { snat: A::number(0xc000_0201), snat_port: BePort::new(port), ..flow }
}

/// The rows as the programs make them.
fn rows<A: Numbered>(flow: &Flow<A>) -> Vec<(FlowKey<A>, Flow<A>)> {
    let mut rows = vec![(flow.forward_key(), *flow), (flow.reverse_key(), *flow)];
    if flow.has_snat() {
        rows.push((flow.restore_key(), Flow { flags: flow.flags | flag::RESTORE, ..*flow }));
    }
    rows
}

fn put<A: Numbered>(table: &mut FlowTable<A>, flow: &Flow<A>) {
    for (key, row) in rows(flow) {
        table.insert(&key, &row).unwrap();
    }
}

/// How many of the flow's rows there are.
fn present<A: Numbered>(table: &FlowTable<A>, flow: &Flow<A>) -> usize {
    let there = |(key, _): &(FlowKey<A>, Flow<A>)| table.get(key).unwrap().is_some();
    rows(flow).iter().filter(|row| there(row)).count()
}

fn clients<A: Numbered>(
    table: &FlowTable<A>,
    mut walk: FlowRows<A>,
) -> (BTreeSet<[u32; 4]>, usize) {
    let (mut clients, mut count) = (BTreeSet::new(), 0);
    while table.read(&mut walk).unwrap() {
        clients.extend(walk.rows().map(|(_, flow)| flow.client.to_words()));
        count += walk.rows().count();
    }
    (clients, count)
}

#[test]
fn a_walk_sees_every_row_once_in_batches_and_key_by_key() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    walk_sees_all::<V4>(&pins);
    walk_sees_all::<V6>(&pins);
}

fn walk_sees_all<A: Numbered>(pins: &Pins) {
    let mut table = pins.table::<A>();
    assert_eq!(clients(&table, FlowRows::new()), (BTreeSet::new(), 0));
    assert_eq!(clients(&table, FlowRows::key_by_key()), (BTreeSet::new(), 0));
    // More than a batch.
    let flows: Vec<Flow<A>> = (0..3000).map(|client| flow(client, 6, OPEN, 0)).collect();
    for flow in &flows {
        put(&mut table, flow);
    }
    let all: BTreeSet<[u32; 4]> = flows.iter().map(|flow| flow.client.to_words()).collect();
    assert_eq!(clients(&table, FlowRows::new()), (all.clone(), 6000));
    assert_eq!(clients(&table, FlowRows::key_by_key()), (all, 6000));
    assert_eq!(table.count().unwrap(), 6000);
}

#[test]
fn a_walk_ends_while_rows_come_and_go() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    let (mut table, stop) = (pins.table::<V4>(), AtomicBool::new(false));
    (0..2000).for_each(|client| put(&mut table, &flow(client, 17, 0, 0)));
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let (mut table, mut client) = (pins.table::<V4>(), 2000);
            while !stop.load(Ordering::Relaxed) {
                put(&mut table, &flow(client, 17, 0, 0));
                for (key, _) in rows(&flow::<V4>(client - 2000, 17, 0, 0)) {
                    table.remove(&key).unwrap();
                }
                client += 1;
            }
            client
        });
        let begin = Instant::now();
        let mut walks = 0;
        while walks < 20 || begin.elapsed() < Duration::from_millis(200) {
            let (_, count) = clients(&table, FlowRows::new());
            assert!(count <= 8192, "{count}");
            let (_, count) = clients(&table, FlowRows::key_by_key());
            assert!(count <= 8192, "{count}");
            walks += 1;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(changes.join().unwrap() > 2000, "nothing changed meanwhile");
    });
}

#[test]
fn flows_that_are_over_are_forgotten_with_all_their_rows_and_no_others() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    forgets_what_is_over::<V4>(&pins);
    forgets_what_is_over::<V6>(&pins);
}

fn forgets_what_is_over<A: Numbered>(pins: &Pins) {
    let mut table = pins.table::<A>();
    let closed = OPEN | CLIENT_FIN | BACKEND_FIN;
    let mut kept = Vec::new();
    let mut over = Vec::new();
    for (n, (proto, tcp, limit, reason)) in [
        (6, 0, IDLE_TRANSIENT, Reason::Idle),
        (6, OPEN, IDLE_ESTABLISHED, Reason::Idle),
        (6, OPEN | BACKEND_FIN, IDLE_CLOSING, Reason::Idle),
        (6, closed, TIME_WAIT, Reason::Closed),
        (6, RESET, TIME_WAIT, Reason::Closed),
        (17, 0, IDLE_DATAGRAM, Reason::Idle),
        (17, OPEN, IDLE_DATAGRAMS, Reason::Idle),
    ]
    .into_iter()
    .enumerate()
    {
        let n = u32::try_from(n).unwrap() * 4;
        let port = 61_000 + u16::try_from(n).unwrap();
        kept.push(flow::<A>(n, proto, tcp, limit));
        kept.push(masqueraded(flow(n + 1, proto, tcp, limit), port));
        over.push((flow(n + 2, proto, tcp, limit + 1), reason));
        over.push((masqueraded(flow(n + 3, proto, tcp, limit + 1), port + 1), reason));
    }
    for flow in kept.iter().chain(over.iter().map(|(flow, _)| flow)) {
        put(&mut table, flow);
    }
    let swept = pins.sweep();
    assert_eq!(swept.rows, 70);
    for reason in Reason::ALL {
        let expected = over.iter().filter(|(_, why)| *why == reason).count();
        assert_eq!(swept.expired.get(reason), expected as u64, "{reason:?}");
    }
    for flow in &kept {
        assert_eq!(present(&table, flow), rows(flow).len(), "{flow:?}");
    }
    for (flow, _) in &over {
        assert_eq!(present(&table, flow), 0, "{flow:?}");
    }
    assert_eq!(pins.sweep().expired.total(), 0);
    kept.iter().flat_map(rows).for_each(|(key, _)| table.remove(&key).unwrap());
}

#[test]
fn one_fresh_row_keeps_the_flow() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    let mut table = pins.table::<V4>();
    for fresh in 0..2 {
        let old = masqueraded(flow(fresh, 17, 0, IDLE_DATAGRAMS + 1), 61_000);
        put(&mut table, &old);
        let key = [old.forward_key(), old.reverse_key()][fresh as usize];
        table.insert(&key, &Flow { last_used: NOW - SECOND, ..old }).unwrap();
        assert_eq!(pins.sweep().expired.total(), 0);
        assert_eq!(present(&table, &old), 3);
        put(&mut table, &old);
        assert_eq!(pins.sweep().expired.total(), 1);
        assert_eq!(present(&table, &old), 0);
    }
    // The row of replies to this node does not follow the connection.
    let open = masqueraded(flow(9, 6, OPEN, SECOND), 61_001);
    put(&mut table, &open);
    let restore =
        Flow { last_used: NOW - 10 * IDLE_ESTABLISHED, flags: flag::RESTORE, tcp: 0, ..open };
    table.insert(&open.restore_key(), &restore).unwrap();
    assert_eq!(pins.sweep().expired.total(), 0);
    assert_eq!(present(&table, &open), 3);
}

#[test]
fn leftovers_of_an_earlier_run_go_and_the_new_run_stays() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    let mut table = pins.table::<V4>();
    let old = masqueraded(flow(1, 6, OPEN, IDLE_TRANSIENT + 1), 61_000);
    put(&mut table, &old);
    // The client has begun anew with its port, and was given another backend.
    let new = Flow { backend_addr: V4::number(0x0af4_0002), ..flow(1, 6, OPEN, 0) };
    put(&mut table, &new);
    let swept = pins.sweep();
    assert_eq!((swept.expired.get(Reason::Leftover), swept.expired.total()), (1, 1));
    assert_eq!(present(&table, &new), 2);
    assert_eq!(table.get(&old.reverse_key()).unwrap(), None);
    assert_eq!(table.get(&old.restore_key()).unwrap(), None);
    // Nobody knows of this one's flow any more.
    let (key, row) = rows(&old)[2];
    table.insert(&key, &row).unwrap();
    assert_eq!(pins.sweep().expired.get(Reason::Leftover), 1);
    assert_eq!(table.get(&key).unwrap(), None);
}

#[test]
fn datagrams_leave_a_backend_that_is_gone_and_connections_stay() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    let mut table = pins.table::<V6>();
    let (datagrams, connection) = (flow(1, 17, 0, 0), flow(2, 6, OPEN, 0));
    put(&mut table, &datagrams);
    put(&mut table, &connection);
    for state in [backend_state::ACTIVE, backend_state::TERMINATING] {
        pins.backend(state);
        assert_eq!(pins.sweep().expired.total(), 0);
    }
    pins.backend(backend_state::REMOVED);
    let swept = pins.sweep();
    assert_eq!((swept.expired.get(Reason::BackendGone), swept.expired.total()), (1, 1));
    assert_eq!((present(&table, &datagrams), present(&table, &connection)), (0, 2));
}

#[test]
fn a_flow_is_listed_and_counted_once_whichever_row_is_left() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    let mut table = pins.table::<V4>();
    let whole = masqueraded(flow::<V4>(1, 6, OPEN, 0), 61_000);
    put(&mut table, &whole);
    let half = flow::<V4>(2, 6, 0, 0);
    table.insert(&half.reverse_key(), &half).unwrap();
    put(&mut table, &Flow { flags: flag::DIRECT, ..flow(3, 17, 0, 0) });
    let flows = list(&pins.path, &FlowFilter::default()).unwrap();
    let seen: Vec<_> = flows.iter().map(|flow| (flow.client.to_string(), flow.state)).collect();
    let expected = [("10.0.0.1:4000", Stage::Open), ("10.0.0.2:4000", Stage::Syn)];
    assert_eq!(seen, expected.map(|(client, state)| (client.to_owned(), state)));
    assert_eq!(flows[0].source, Some("192.0.2.1:61000".parse().unwrap()));
    assert_eq!((flows[1].source, &flows[1].service), (None, &None));
    let all = list(&pins.path, &FlowFilter { direct: true, ..FlowFilter::default() }).unwrap();
    assert_eq!((all.len(), all.iter().filter(|flow| flow.direct).count()), (3, 1));
    let counts = census(&pins.path).unwrap();
    let counts: BTreeSet<_> = counts
        .iter()
        .filter(|count| count.flows > 0)
        .map(|count| (count.family, count.protocol, count.state, count.flows))
        .collect();
    let expected =
        [("ipv4", "TCP", "open", 1), ("ipv4", "TCP", "syn", 1), ("ipv4", "UDP", "direct", 1)];
    assert_eq!(counts, expected.into_iter().collect());
}

/// An agent to which nobody says how large the tables are to be keeps one that its own
/// size would not hold.
#[test]
fn a_table_that_is_in_use_is_not_exchanged_for_one_too_small() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::small();
    let dir = PinDir::new(&pins.path);
    let mut table = pins.table::<V4>();
    assert_eq!(outgrown::<V4>(&dir, 100), None);
    // Flows of long ago, and one by one those of now.
    for client in 0..200 {
        put(&mut table, &Flow { last_used: 0, ..flow(client, 6, RESET, 0) });
    }
    for client in 200..250 {
        put(&mut table, &flow(client, 6, OPEN, 0));
    }
    assert_eq!(outgrown::<V4>(&dir, 100), None);
    put(&mut table, &flow(250, 6, OPEN, 0));
    assert_eq!(outgrown::<V4>(&dir, 100), Some(8192));
    assert_eq!(outgrown::<V4>(&dir, 102), None);
    assert_eq!(outgrown::<V4>(&dir, 16_384), None, "it is smaller anyway");
    assert_eq!(outgrown::<V6>(&dir, 100), None, "the other family has none");
}

/// The cost of a row is in `lb agent --help`.
#[test]
fn a_row_takes_as_many_bytes_as_the_manual_says() {
    if !privilege::root_or_skip() {
        return;
    }
    let sizes = MapSizes::default();
    let pins = Pins::load(sizes);
    let costs = costs(&pins.path).unwrap();
    for (map, rows, bytes) in
        [(names::MAP_FLOWS_V4, sizes.flows_v4, 136), (names::MAP_FLOWS_V6, sizes.flows_v6, 208)]
    {
        let (_, cost) = costs.iter().find(|(name, _)| *name == map).unwrap();
        assert_eq!(cost / u64::from(rows), bytes, "{map}");
    }
}

/// What this thread has used: other processes don't count.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

/// Prints what it takes to sweep tables of twice the default size.
#[test]
fn full_tables_are_swept_in_a_fraction_of_the_interval() {
    if !privilege::root_or_skip() {
        return;
    }
    let sizes = MapSizes { flows_v4: 262_144, flows_v6: 131_072, ..MapSizes::default() };
    let pins = Pins::load(sizes);
    let fill = |silence| {
        let (mut v4, mut v6) = (pins.table::<V4>(), pins.table::<V6>());
        for client in 0..sizes.flows_v4 / 2 {
            put(&mut v4, &flow(client, 6, OPEN, silence));
        }
        for client in 0..sizes.flows_v6 / 2 {
            put(&mut v6, &flow(client, 6, OPEN, silence));
        }
    };
    for (what, silence) in
        [("in use", 0), ("quiet", IDLE_TRANSIENT + 1), ("over", IDLE_ESTABLISHED + 1)]
    {
        fill(silence);
        let begin = (Instant::now(), processor_time());
        let swept = pins.sweep();
        let (took, processor) = (begin.0.elapsed(), processor_time().saturating_sub(begin.1));
        println!("{} rows, {what}: {took:?}, {processor:?} of a processor", swept.rows);
        // Eviction begins a little before the last row is taken, and may split
        // a flow; a row that goes with its flow is not met again.
        let (rows, flows) =
            if silence > IDLE_ESTABLISHED { (180_000, 180_000..) } else { (350_000, 0..) };
        assert!(swept.rows > rows && flows.contains(&swept.expired.total()), "{swept:?}");
        assert!(processor < Duration::from_secs(5), "{processor:?}");
    }
    assert_eq!((pins.table::<V4>().count().unwrap(), pins.table::<V6>().count().unwrap()), (0, 0));
}
