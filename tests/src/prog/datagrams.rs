//! Forgets or ages what the programs know of datagrams in fragments. Rows of
//! maps that are nobody else's are plain words here.

use aya::maps::{Array, HashMap, MapData};
use lb_common::limits::MAX_HELD;
use lb_common::{Held, HeldKey, names};

use super::Rig;

/// A time that never passes.
const FUTURE: u64 = u64::MAX;

/// Key and row of `LB_FRAGMENTS_V4`.
type V4 = ([u32; 4], [u64; 3]);
/// Key and row of `LB_FRAGMENTS_V6`.
type V6 = ([u32; 10], [u64; 6]);

impl Rig {
    /// Forgets every datagram, and the fragments that wait.
    pub(super) fn clear_datagrams(&mut self) {
        self.clear_hash::<[u32; 4], [u64; 3]>("LB_FRAGMENTS_V4");
        self.clear_hash::<[u32; 10], [u64; 6]>("LB_FRAGMENTS_V6");
        self.change_held(|held| {
            held.len = 0;
            held.lost = 0;
        });
    }

    /// Makes every datagram, and the fragments that wait, as old as the machine.
    pub fn age_datagrams(&mut self) {
        self.change_rows::<V4>("LB_FRAGMENTS_V4", |row| row[2] = 0);
        self.change_rows::<V6>("LB_FRAGMENTS_V6", |row| row[5] = 0);
        self.change_held(|held| held.came = 0);
    }

    /// Lets no time pass for the fragments that wait, nor for their datagrams.
    pub fn keep_waiting(&mut self) {
        self.change_rows::<V4>("LB_FRAGMENTS_V4", |row| row[2] = FUTURE);
        self.change_rows::<V6>("LB_FRAGMENTS_V6", |row| row[5] = FUTURE);
        self.change_held(|held| held.came = FUTURE);
    }

    /// Puts fragments of others, that stay, into all slots that are free.
    pub fn fill_waiting(&mut self) {
        for (row, slot) in self.held().into_iter().zip(0..) {
            if row.len == 0 {
                let row = Held { len: 64, came: FUTURE, key: HeldKey::default(), ..row };
                self.set_array(names::MAP_HELD, slot, row);
            }
        }
        self.keep_waiting();
    }

    /// How many fragments wait. No slot is locked between two packets.
    pub fn waiting(&self) -> usize {
        let slots = self.held();
        assert!(slots.iter().all(|slot| slot.lock == 0), "a slot is still locked");
        slots.iter().filter(|slot| slot.len != 0).count()
    }

    /// How many fragments the programs gave up.
    pub fn lost(&self) -> u64 {
        self.held().iter().map(|slot| slot.lost).sum()
    }

    fn held(&self) -> Vec<Held> {
        let map: Array<&MapData, Held> =
            Array::try_from(self.map(names::MAP_HELD)).expect("an array");
        (0..MAX_HELD).map(|slot| map.get(&slot, 0).expect("a slot")).collect()
    }

    fn change_held(&mut self, change: impl Fn(&mut Held)) {
        for (mut row, slot) in self.held().into_iter().zip(0..) {
            if row.len != 0 || row.lost != 0 {
                change(&mut row);
                self.set_array(names::MAP_HELD, slot, row);
            }
        }
    }

    fn change_rows<R: Row>(&mut self, name: &str, change: impl Fn(&mut R::Value)) {
        let mut map: HashMap<_, R::Key, R::Value> =
            HashMap::try_from(self.map_mut(name)).expect("a hash map");
        let rows: Vec<_> = map.iter().collect::<Result<_, _>>().expect("the rows");
        for (key, mut row) in rows {
            change(&mut row);
            map.insert(key, row, 0).expect("the row is there");
        }
    }
}

/// Key and value of a map.
trait Row {
    type Key: aya::Pod;
    type Value: aya::Pod;
}

impl<K: aya::Pod, V: aya::Pod> Row for (K, V) {
    type Key = K;
    type Value = V;
}
