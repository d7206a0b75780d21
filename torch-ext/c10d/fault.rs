//! What is said of ranks that a collective, or a wait for others, failed by.

use std::fmt;
use std::time::Duration;

/// How a rank is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// Its process is gone.
    Gone,
    /// It lives, and has not come in time.
    Late,
    /// It ended with an error of its own.
    Failed,
}

/// Ranks that were waited for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankFault {
    /// What they were waited for at.
    pub op: &'static str,
    /// Which one of its kind it was, counted from 1.
    pub number: u64,
    /// Those ranks.
    pub ranks: Vec<usize>,
    /// Number of all.
    pub size: usize,
    /// How they are missed.
    pub how: Absence,
    /// How long they were waited for.
    pub waited: Duration,
    /// What c10d, or the rank itself, said.
    pub message: String,
}

impl fmt::Display for RankFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, number, ranks, size, how, waited, message } = self;
        let number_of = |one, more| if ranks.len() == 1 { one } else { more };
        write!(f, "{op} {number}: {} of {size} ", ranks_of(ranks))?;
        match how {
            Absence::Gone => {
                let is = number_of("is", "are");
                write!(f, "{is} gone (noticed after {}; {message})", seconds(waited))
            }
            Absence::Late => {
                let lives = number_of("lives", "live");
                write!(f, "did not come to it within {}, and still {lives} ({message})", seconds(waited))
            }
            Absence::Failed => {
                write!(f, "ended with an error of {} own ({message})", number_of("its", "their"))
            }
        }
    }
}

/// "3 s".
pub(crate) fn seconds(time: &Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}

/// "rank 2", "ranks 1 and 3", "ranks 1, 2 and 3".
pub(crate) fn ranks_of(ranks: &[usize]) -> String {
    let words: Vec<String> = ranks.iter().map(usize::to_string).collect();
    match words.as_slice() {
        [] => "no rank".to_owned(),
        [one] => format!("rank {one}"),
        [all @ .., last] => format!("ranks {} and {last}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_and_several_are_told_in_good_words() {
        let told = |ranks: &[usize], how| {
            let waited = Duration::from_secs(5);
            let message = "m".to_owned();
            RankFault { op: "barrier", number: 7, ranks: ranks.to_vec(), size: 4, how, waited, message }
                .to_string()
        };
        assert_eq!(told(&[2], Absence::Gone), "barrier 7: rank 2 of 4 is gone (noticed after 5 s; m)");
        let late = "barrier 7: ranks 1 and 3 of 4 did not come to it within 5 s, and still live (m)";
        assert_eq!(told(&[1, 3], Absence::Late), late);
        let failed = "barrier 7: ranks 0, 1 and 2 of 4 ended with an error of their own (m)";
        assert_eq!(told(&[0, 1, 2], Absence::Failed), failed);
    }
}
