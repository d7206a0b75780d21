//! Axes of plots: their ends, where values lie on them, and what is written beside them.

/// One direction of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What is along it.
    pub label: String,
    /// Its ends.
    pub range: (f64, f64),
    /// Whether equal distances are equal factors.
    pub log: bool,
}

impl Axis {
    /// An axis that holds all finite values, widened to round numbers; those of a logarithmic one must be above 0.
    pub fn around(label: &str, values: impl Iterator<Item = f64>, log: bool) -> Self {
        let fits = |value: &f64| value.is_finite() && (!log || *value > 0.0);
        let (low, high) = values
            .filter(fits)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let range = match (low <= high, log) {
            (false, false) => (0.0, 1.0),
            (false, true) => (1.0, 10.0),
            (true, true) => (low / 1.15, high * 1.15),
            (true, false) if low == high => (low - 0.5, high + 0.5),
            (true, false) => {
                let step = step(high - low);
                ((low / step).floor() * step, (high / step).ceil() * step)
            }
        };
        Self { label: label.to_owned(), range, log }
    }

    /// An axis between two ends.
    pub fn between(label: &str, low: f64, high: f64) -> Self {
        Self { label: label.to_owned(), range: (low, high), log: false }
    }

    /// Where a value lies, 0 to 1.
    pub(super) fn place(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        let place = match self.log {
            true => (value.max(f64::MIN_POSITIVE) / low).ln() / (high / low).ln(),
            false => (value - low) / (high - low),
        };
        place.clamp(-0.05, 1.05)
    }

    pub(super) fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.range;
        if self.log {
            let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
            let wide = high / low > 50.0;
            let digits: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let ticks = decades.flat_map(|decade| digits.iter().map(move |digit| digit * 10f64.powi(decade)));
            return ticks.filter(|tick| (low..=high).contains(tick)).collect();
        }
        let step = step(high - low);
        let first = (low / step).ceil() as i64;
        (first..).map(|tick| tick as f64 * step).take_while(|tick| *tick <= high + step * 1e-6).collect()
    }
}

/// A round distance of which about five make the range.
fn step(range: f64) -> f64 {
    let rough = range.max(1e-12) / 5.0;
    let unit = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * unit >= rough * 0.999);
    factor.unwrap_or(10.0) * unit
}

/// A number with as many digits as tell neighbours apart.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match value {
        _ if value == 0.0 => "0".to_owned(),
        _ if size >= 1e6 => format!("{} M", trimmed(value / 1e6, 2)),
        _ if size >= 1e4 => format!("{} k", trimmed(value / 1e3, 1)),
        _ if size < 1e-3 => format!("{value:.0e}"),
        _ => trimmed(value, 3),
    }
}

fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ends_and_ticks() {
        let axis = Axis::around("x", [3.2, 47.0, f64::NAN].into_iter(), false);
        assert_eq!(axis.range, (0.0, 50.0));
        assert_eq!(axis.ticks(), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]);
        let log = Axis::around("x", [8.0, 128.0, 0.0].into_iter(), true);
        assert!(log.ticks().contains(&10.0) && log.ticks().contains(&100.0), "{:?}", log.ticks());
        assert_eq!(Axis::around("x", [].into_iter(), false).range, (0.0, 1.0));
        assert_eq!(Axis::around("x", [2.0].into_iter(), false).range, (1.5, 2.5));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.25, 12.0, 1500.0, 25_000.0, 3e6, 0.0002].map(number),
            ["0", "0.25", "12", "1500", "25 k", "3 M", "2e-4"]
        );
    }
}
