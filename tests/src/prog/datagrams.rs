//! Forgets or ages what the programs know of datagrams in fragments. Rows of
//! maps that are nobody else's are plain words here.

use aya::maps::HashMap;
use lb_common::{Held, HeldKey, names};

use super::Rig;

/// Key and row of `LB_FRAGMENTS_V4`.
type V4 = ([u32; 4], [u64; 3]);
/// Key and row of `LB_FRAGMENTS_V6`.
type V6 = ([u32; 10], [u64; 6]);

impl Rig {
    /// Forgets every datagram, and the fragments that wait.
    pub(super) fn clear_datagrams(&mut self) {
        self.clear_hash::<[u32; 4], [u64; 3]>("LB_FRAGMENTS_V4");
        self.clear_hash::<[u32; 10], [u64; 6]>("LB_FRAGMENTS_V6");
        self.clear_hash::<HeldKey, Held>(names::MAP_HELD);
    }

    /// Makes every datagram, and the fragments that wait, as old as the machine.
    pub fn age_datagrams(&mut self) {
        self.age_rows::<V4>("LB_FRAGMENTS_V4", |row| row[2] = 0);
        self.age_rows::<V6>("LB_FRAGMENTS_V6", |row| row[5] = 0);
        self.age_rows::<(HeldKey, Held)>(names::MAP_HELD, |row| row.came = 0);
    }

    /// How many fragments wait.
    pub fn waiting(&self) -> usize {
        let map: HashMap<_, HeldKey, Held> =
            HashMap::try_from(self.map(names::MAP_HELD)).expect("a hash map");
        map.keys().count()
    }

    fn age_rows<R: Row>(&mut self, name: &str, age: impl Fn(&mut R::Value)) {
        let mut map: HashMap<_, R::Key, R::Value> =
            HashMap::try_from(self.map_mut(name)).expect("a hash map");
        let rows: Vec<_> = map.iter().collect::<Result<_, _>>().expect("the rows");
        for (key, mut row) in rows {
            age(&mut row);
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
