//! Where the time of training steps goes: by operation of the CPU and by kernel of the GPU.

use std::collections::HashMap;

use serde::Serialize;
use torch_ext::ProfileEvent;

/// Names that are told, and all kernels of this project.
const TOLD: usize = 20;

/// What names of this project's own kernels begin with.
const OURS: &str = "te_";

/// Where the time of some steps went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Profile {
    /// Steps that were seen.
    pub steps: usize,
    /// How long a step took, in milliseconds, the profiler's own work included.
    pub ms_per_step: f64,
    /// Share of that time in which the GPU had something to do, in percent; absent without a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_busy_percent: Option<f64>,
    /// Kernels of the GPU, the longest first.
    pub kernels: Vec<Spent>,
    /// Operations of the CPU without what they called, the longest first.
    pub operations: Vec<Spent>,
}

/// What one name took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spent {
    /// Of the kernel or operation.
    pub name: String,
    /// How often in a step, in the mean.
    pub calls: f64,
    /// In a step, in milliseconds.
    pub ms: f64,
    /// Of the step.
    pub percent: f64,
}

impl Profile {
    /// Of the events of so many steps that took so many nanoseconds in all.
    pub fn of(events: &[ProfileEvent], steps: usize, ns: u64) -> Self {
        let steps = steps.max(1);
        let told = |on_device: bool| {
            let mut spent: HashMap<&str, (u64, u64)> = HashMap::new();
            let chosen: Vec<&ProfileEvent> =
                events.iter().filter(|event| event.on_device == on_device).collect();
            for (event, own) in own_times(&chosen) {
                let (calls, total) = spent.entry(&event.name).or_default();
                *calls += 1;
                *total += own;
            }
            let row = |(name, (calls, total)): (&str, (u64, u64))| Spent {
                name: name.to_owned(),
                calls: calls as f64 / steps as f64,
                ms: total as f64 / 1e6 / steps as f64,
                percent: 100.0 * total as f64 / ns.max(1) as f64,
            };
            let mut rows: Vec<Spent> = spent.into_iter().map(row).collect();
            rows.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| a.name.cmp(&b.name)));
            let ours =
                rows.split_off(TOLD.min(rows.len())).into_iter().filter(|spent| spent.name.starts_with(OURS));
            rows.extend(ours.collect::<Vec<_>>());
            rows
        };
        let kernels = told(true);
        Self {
            steps,
            ms_per_step: ns as f64 / 1e6 / steps as f64,
            device_busy_percent: (!kernels.is_empty())
                .then(|| 100.0 * busy(events) as f64 / ns.max(1) as f64),
            kernels,
            operations: told(false),
        }
    }
}

/// Each event with the time it took without the events within it, on its own thread.
fn own_times<'a>(events: &[&'a ProfileEvent]) -> Vec<(&'a ProfileEvent, u64)> {
    let mut sorted: Vec<&ProfileEvent> = events.to_vec();
    // of those that begin together, the outer one first
    sorted.sort_by_key(|event| (event.lane, event.begin_ns, std::cmp::Reverse(event.ns)));
    let mut own: Vec<(&ProfileEvent, u64)> = Vec::with_capacity(sorted.len());
    let mut open: Vec<usize> = Vec::new();
    for event in sorted {
        let holds = |outer: &ProfileEvent| {
            outer.lane == event.lane && event.begin_ns + event.ns <= outer.begin_ns + outer.ns
        };
        while open.last().is_some_and(|&at| !holds(own[at].0)) {
            open.pop();
        }
        if let Some(&outer) = open.last() {
            own[outer].1 = own[outer].1.saturating_sub(event.ns);
        }
        open.push(own.len());
        own.push((event, event.ns));
    }
    own
}

/// Nanoseconds in which some stream of the GPU had something to do.
fn busy(events: &[ProfileEvent]) -> u64 {
    let mut spans: Vec<(u64, u64)> = events
        .iter()
        .filter(|event| event.on_device)
        .map(|event| (event.begin_ns, event.begin_ns + event.ns))
        .collect();
    spans.sort_unstable();
    let (mut total, mut until) = (0, 0);
    for (begin, end) in spans {
        total += end.saturating_sub(begin.max(until));
        until = until.max(end);
    }
    total
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(name: &str, on_device: bool, lane: u64, begin_ns: u64, ns: u64) -> ProfileEvent {
        ProfileEvent { name: name.to_owned(), on_device, lane, begin_ns, ns }
    }

    #[test]
    fn time_counts_once_for_the_innermost_and_overlapping_streams_once_for_the_device() {
        let events = [
            event("outer", false, 1, 0, 100),
            event("inner", false, 1, 10, 30),
            event("innermost", false, 1, 20, 10),
            event("inner", false, 1, 50, 20),
            // another thread at the same time
            event("elsewhere", false, 2, 0, 100),
            event("outer", false, 1, 100, 10),
            event("kernel", true, 7, 0, 40),
            event("kernel", true, 8, 20, 40),
            event("copy", true, 7, 100, 20),
        ];
        let profile = Profile::of(&events, 2, 200);
        let found: Vec<(&str, f64, f64)> = profile
            .operations
            .iter()
            .map(|spent| (spent.name.as_str(), spent.calls, spent.ms * 2e6))
            .collect();
        let expected =
            [("elsewhere", 0.5, 100.0), ("outer", 1.0, 60.0), ("inner", 1.0, 40.0), ("innermost", 0.5, 10.0)];
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!((found.0, found.1), (expected.0, expected.1));
            assert!((found.2 - expected.2).abs() < 1e-9, "{found:?}");
        }
        // 0 to 60 and 100 to 120
        assert_eq!(profile.device_busy_percent, Some(40.0));
        assert_eq!(profile.kernels[0].percent, 40.0);
        assert_eq!(Profile::of(&events[..6], 1, 200).device_busy_percent, None);
    }
}
