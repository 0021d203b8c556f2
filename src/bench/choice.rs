//! Random choices: a small generator and the choice of an aggregate.
//!
//! It refuses to be unpredictable: the same seed gives the same choices. Both distributions answer
//! in constant time, so that a skewed run costs the generator no more than an even one.

use super::args::Distribution;

/// The SplitMix64 generator (Steele, Lea and Flood, OOPSLA 2014): one addition and two multiplies.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A generator for one client.
    pub(super) fn new(seed: u64, client: u64) -> Self {
        let mut random = Self(seed ^ client.wrapping_mul(0xD134_2543_DE82_EF95));
        random.next();
        random
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, by multiplication instead of division.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// True in about `share` of the calls. 0 never, 1 always.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.fraction() < share
    }

    /// A number from 0 up to, but not including, 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How the next aggregate is found.
#[derive(Debug)]
pub(super) enum Choice {
    /// Every aggregate below the bound equally often.
    Uniform(u64),
    /// Walker's alias table: per slot, how often to keep it and where to go otherwise.
    Alias(Vec<Slot>),
}

/// One slot of an alias table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    keep: f64,
    other: u32,
}

impl Choice {
    /// Prepares the choice among `aggregates`.
    pub(super) fn new(distribution: Distribution, aggregates: u32, exponent: f64) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform(u64::from(aggregates)),
            Distribution::Zipf => Self::Alias(alias_table(aggregates, exponent)),
        }
    }

    /// The number of an aggregate, from 0.
    pub(super) fn next(&self, random: &mut Random) -> u64 {
        match self {
            Self::Uniform(bound) => random.below(*bound),
            Self::Alias(slots) => {
                let place = random.below(slots.len() as u64);
                let slot = usize::try_from(place)
                    .ok()
                    .and_then(|place| slots.get(place));
                match slot {
                    Some(slot) if random.fraction() >= slot.keep => u64::from(slot.other),
                    _ => place,
                }
            }
        }
    }
}

/// Builds the table by Vose's method: slots that are too light borrow from one that is too heavy.
fn alias_table(aggregates: u32, exponent: f64) -> Vec<Slot> {
    let weight = |rank: u32| 1.0 / f64::from(rank + 1).powf(exponent);
    let mean = (0..aggregates).map(weight).sum::<f64>() / f64::from(aggregates);
    let mut table: Vec<Slot> = (0..aggregates)
        .map(|rank| Slot {
            keep: weight(rank) / mean,
            other: rank,
        })
        .collect();
    let (mut light, mut heavy): (Vec<u32>, Vec<u32>) =
        (0..aggregates).partition(|&rank| weight(rank) < mean);
    while let (Some(small), Some(&large)) = (light.pop(), heavy.last()) {
        let Some(slot) = table.get_mut(small as usize) else {
            continue;
        };
        slot.other = large;
        let borrowed = 1.0 - slot.keep;
        let Some(giver) = table.get_mut(large as usize) else {
            continue;
        };
        giver.keep -= borrowed;
        if giver.keep < 1.0 {
            heavy.pop();
            light.push(large);
        }
    }
    // Rounding may leave a few slots without a partner; they are full by definition.
    for rank in light.into_iter().chain(heavy) {
        if let Some(slot) = table.get_mut(rank as usize)
            && slot.other == rank
        {
            slot.keep = 1.0;
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(choice: &Choice, aggregates: usize, draws: usize) -> Vec<f64> {
        let mut random = Random::new(7, 0);
        let mut counts = vec![0.0; aggregates];
        for _ in 0..draws {
            counts[usize::try_from(choice.next(&mut random)).unwrap()] += 1.0;
        }
        counts
    }

    #[test]
    fn zipf_follows_its_law() {
        let counts = count(&Choice::new(Distribution::Zipf, 100, 1.0), 100, 1_000_000);
        let harmonic: f64 = (1..=100).map(|rank| 1.0 / f64::from(rank)).sum();
        for rank in [1_usize, 2, 10, 50] {
            let expected = 1_000_000.0 / (harmonic * rank as f64);
            let seen = counts[rank - 1];
            assert!(
                (seen / expected - 1.0).abs() < 0.08,
                "rank {rank}: {seen} not {expected}"
            );
        }
    }

    #[test]
    fn uniform_is_even_and_reaches_both_ends() {
        let counts = count(&Choice::new(Distribution::Uniform, 10, 0.0), 10, 100_000);
        assert!(
            counts
                .iter()
                .all(|seen| (seen / 10_000.0 - 1.0).abs() < 0.05),
            "{counts:?}"
        );
    }

    #[test]
    fn chance_keeps_its_ends() {
        let mut random = Random::new(1, 1);
        assert!((0..10_000).all(|_| random.chance(1.0)));
        assert!((0..10_000).all(|_| !random.chance(0.0)));
    }
}
