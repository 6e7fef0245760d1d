//! Random numbers that a failed run can be repeated with.

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, and good enough.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of the seed in `LB_SEED`, or of the clock; prints the seed.
    #[expect(clippy::print_stdout, reason = "the test's output is shown when it fails")]
    pub fn seeded() -> Self {
        let clock = || {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |now| u64::from(now.subsec_nanos()) << 20 ^ now.as_secs())
        };
        let seed = std::env::var("LB_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(clock);
        println!("LB_SEED={seed} repeats this run");
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Others, for a thread of its own.
    #[must_use]
    pub const fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("64 bits at most").max(1);
        usize::try_from(self.bits() % end).expect("below a usize")
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.bits().to_ne_bytes()[..chunk.len()]);
        }
    }
}
