//! Plots as SVG. Colours are the page's own (classes `s0`, `s1`, ... and currentColor), so that a plot follows light, dark
//! and print; sizes are those of a view box, so that it follows the width.

use std::fmt::Write as _;

pub use super::axis::Axis;
use super::axis::number;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 58.0;

/// Width of a letter of the labels, about.
const LETTER: f64 = 9.0;

/// A plot with two numeric axes.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What it shows, for readers who do not see it.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    series: Vec<Series>,
}

#[derive(Debug, Clone)]
struct Series {
    name: String,
    marks: Marks,
}

#[derive(Debug, Clone)]
enum Marks {
    Line(Vec<(f64, f64)>),
    Dots(Vec<(f64, f64)>),
    /// Low end, high end, height.
    Steps(Vec<(f64, f64, f64)>),
}

impl Plot {
    /// One without anything in it.
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        Self { title: title.to_owned(), x, y, series: Vec::new() }
    }

    /// A line through points, with a dot at each where there are few.
    pub fn line(mut self, name: &str, points: Vec<(f64, f64)>) -> Self {
        self.series.push(Series { name: name.to_owned(), marks: Marks::Line(points) });
        self
    }

    /// Points by themselves.
    pub fn dots(mut self, name: &str, points: Vec<(f64, f64)>) -> Self {
        self.series.push(Series { name: name.to_owned(), marks: Marks::Dots(points) });
        self
    }

    /// Bars from low to high ends.
    pub fn steps(mut self, name: &str, bars: Vec<(f64, f64, f64)>) -> Self {
        self.series.push(Series { name: name.to_owned(), marks: Marks::Steps(bars) });
        self
    }

    /// The SVG element.
    pub fn svg(&self) -> String {
        let mut svg = open(&self.title, HEIGHT);
        self.grid(&mut svg);
        for (number, series) in self.series.iter().enumerate() {
            self.marks(&mut svg, number, &series.marks);
        }
        let names: Vec<&str> = self.series.iter().map(|series| series.name.as_str()).collect();
        legend(&mut svg, &names);
        svg + "</svg>"
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let across = LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT);
        (across, HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM))
    }

    fn grid(&self, svg: &mut String) {
        let (floor, ceiling) = (HEIGHT - BOTTOM, TOP);
        for tick in self.y.ticks() {
            let (_, y) = self.at(self.x.range.0, tick);
            let end = WIDTH - RIGHT;
            let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{y:.1}" y2="{y:.1}"/>"#);
            let (x, text) = (LEFT - 8.0, number(tick));
            let _ = write!(svg, r#"<text x="{x}" y="{:.1}" text-anchor="end">{text}</text>"#, y + 5.0);
        }
        for tick in self.x.ticks() {
            let (x, _) = self.at(tick, self.y.range.0);
            let _ =
                write!(svg, r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{ceiling}" y2="{floor}"/>"#);
            let (y, text) = (floor + 20.0, number(tick));
            let _ = write!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{text}</text>"#);
        }
        let (middle, bottom) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0);
        let label = escape(&self.x.label);
        let _ = write!(svg, r#"<text x="{middle}" y="{bottom}" text-anchor="middle">{label}</text>"#);
        let (across, label) = ((TOP + HEIGHT - BOTTOM) / 2.0, escape(&self.y.label));
        let _ = write!(
            svg,
            r#"<text x="16" y="{across}" text-anchor="middle" transform="rotate(-90 16 {across})">{label}</text>"#
        );
    }

    fn marks(&self, svg: &mut String, number: usize, marks: &Marks) {
        let class = format!("s{}", number % COLOURS);
        match marks {
            Marks::Line(points) => {
                let places: Vec<(f64, f64)> = points.iter().map(|&(x, y)| self.at(x, y)).collect();
                let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
                let _ = write!(svg, r#"<polyline class="line {class}" points="{}"/>"#, path.join(" "));
                if places.len() <= 24 {
                    places.iter().for_each(|&(x, y)| dot(svg, &class, x, y, 4.0));
                }
            }
            Marks::Dots(points) => {
                points.iter().map(|&(x, y)| self.at(x, y)).for_each(|(x, y)| dot(svg, &class, x, y, 2.2));
            }
            Marks::Steps(bars) => {
                for &(low, high, height) in bars {
                    let ((left, top), (right, floor)) = (self.at(low, height), self.at(high, self.y.range.0));
                    let (width, tall) = ((right - left - 1.0).max(0.5), (floor - top).max(0.0));
                    let _ = write!(
                        svg,
                        r#"<rect class="bar {class}" x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{tall:.1}"/>"#
                    );
                }
            }
        }
    }
}

/// Bars to the right, a name before each and its interval across its end.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What it shows.
    pub title: String,
    /// What is along it.
    pub axis: Axis,
    /// Name, value of each series, interval of each.
    pub rows: Vec<BarRow>,
    /// Names of the series.
    pub series: Vec<String>,
}

/// The bars of one name.
#[derive(Debug, Clone)]
pub struct BarRow {
    /// Its name.
    pub name: String,
    /// A value and its interval for each series, where there is one.
    pub values: Vec<Option<(f64, Option<[f64; 2]>)>>,
}

impl Bars {
    /// The SVG element.
    pub fn svg(&self) -> String {
        let letters = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let left = (letters as f64 * LETTER + 16.0).clamp(60.0, 260.0);
        let thick = 18.0;
        let row_height = self.series.len().max(1) as f64 * thick + 10.0;
        let floor = TOP + self.rows.len() as f64 * row_height;
        let height = floor + BOTTOM;
        let across = |value: f64| left + self.axis.place(value) * (WIDTH - left - RIGHT - 56.0);
        let mut svg = open(&self.title, height);
        for tick in self.axis.ticks() {
            let (x, y, text) = (across(tick), floor + 18.0, number(tick));
            let _ = write!(svg, r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{floor}"/>"#);
            let _ = write!(svg, r#"<text x="{x:.1}" y="{y}" text-anchor="middle">{text}</text>"#);
        }
        for (place, row) in self.rows.iter().enumerate() {
            let top = TOP + place as f64 * row_height + 5.0;
            let (x, y, name) = (left - 8.0, top + (row_height - 10.0) / 2.0 + 5.0, escape(&row.name));
            let _ = write!(svg, r#"<text x="{x}" y="{y:.1}" text-anchor="end">{name}</text>"#);
            for (number_of, value) in row.values.iter().enumerate() {
                let Some((value, interval)) = value else { continue };
                let (y, class) = (top + number_of as f64 * thick, format!("s{}", number_of % COLOURS));
                let (start, end) = (across(self.axis.range.0.max(0.0)), across(*value));
                let (x, width, tall) = (start.min(end), (end - start).abs(), thick - 3.0);
                let _ = write!(
                    svg,
                    r#"<rect class="bar {class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{tall}"/>"#
                );
                let mut right = end;
                if let Some([low, high]) = interval {
                    let (low, high, middle) = (across(*low), across(*high), y + tall / 2.0);
                    let _ = write!(
                        svg,
                        r#"<line class="whisker" x1="{low:.1}" x2="{high:.1}" y1="{middle:.1}" y2="{middle:.1}"/>"#
                    );
                    right = right.max(high);
                }
                let (x, y, text) = (right + 6.0, y + tall - 2.0, number(*value));
                let _ = write!(svg, r#"<text x="{x:.1}" y="{y:.1}">{text}</text>"#);
            }
        }
        let (middle, bottom, label) = ((left + WIDTH) / 2.0, height - 12.0, escape(&self.axis.label));
        let _ = write!(svg, r#"<text x="{middle}" y="{bottom}" text-anchor="middle">{label}</text>"#);
        let names: Vec<&str> = self.series.iter().map(String::as_str).collect();
        legend(&mut svg, &names);
        svg + "</svg>"
    }
}

/// Colours that the page has for series.
pub const COLOURS: usize = 6;

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        r#"<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><title>{title}</title>"#
    )
}

fn dot(svg: &mut String, class: &str, x: f64, y: f64, radius: f64) {
    let _ = write!(svg, r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="{radius}"/>"#);
}

/// The names of several series, above the plot, cut where they would not fit beside each other; one needs none.
fn legend(svg: &mut String, names: &[&str]) {
    if names.len() < 2 {
        return;
    }
    let room = (WIDTH - LEFT) / names.len() as f64;
    let letters = (((room - 34.0) / LETTER).floor().max(3.0)) as usize;
    let short = |name: &&str| match name.chars().count() > letters {
        true => name.chars().take(letters - 1).chain(['…']).collect::<String>(),
        false => (*name).to_owned(),
    };
    let whole: f64 = names.iter().map(|name| 34.0 + name.chars().count() as f64 * LETTER).sum();
    let fits = whole <= WIDTH - LEFT;
    let names: Vec<String> =
        names.iter().map(|name| if fits { (*name).to_owned() } else { short(name) }).collect();
    let mut x = LEFT;
    for (number, name) in names.iter().enumerate() {
        let class = format!("s{}", number % COLOURS);
        let _ = write!(svg, r#"<rect class="bar {class}" x="{x:.1}" y="4" width="12" height="12"/>"#);
        let (at, text) = (x + 18.0, escape(name));
        let _ = write!(svg, r#"<text x="{at:.1}" y="15">{text}</text>"#);
        x += 34.0 + name.chars().count() as f64 * LETTER;
    }
}

/// Text as SVG and HTML have it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A histogram's bars over a range: `(low, high, share)`.
pub fn histogram(values: &[f64], range: (f64, f64), bars: usize) -> Vec<(f64, f64, f64)> {
    let width = (range.1 - range.0) / bars.max(1) as f64;
    let mut counts = vec![0usize; bars];
    for value in values {
        let bar = ((value - range.0) / width).floor().clamp(0.0, bars.saturating_sub(1) as f64) as usize;
        if let Some(count) = counts.get_mut(bar) {
            *count += 1;
        }
    }
    let share = |count: usize| count as f64 / values.len().max(1) as f64;
    let bar = |(bar, &count): (usize, &usize)| {
        (range.0 + bar as f64 * width, range.0 + (bar + 1) as f64 * width, share(count))
    };
    counts.iter().enumerate().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_escaped_and_counted() {
        let axis = || Axis::between("<b>", 0.0, 1.0);
        let svg = Plot::new("a < b", axis(), axis())
            .line("one", vec![(0.0, 0.0), (1.0, 1.0)])
            .dots("<script>", vec![(0.5, 0.5)])
            .steps("three", histogram(&[0.1, 0.2, 0.9, 7.0], (0.0, 1.0), 10))
            .svg();
        assert!(!svg.contains("<b>") && !svg.contains("<script>") && svg.contains("&lt;script&gt;"));
        assert_eq!(svg.matches("<polyline").count(), 1);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches(r#"class="bar s2""#).count(), 10 + 1);
    }

    #[test]
    fn a_histogram_holds_all_values() {
        let bars = histogram(&[-3.0, 0.05, 0.95, 1.0], (0.0, 1.0), 10);
        assert_eq!((bars[0].2, bars[9].2), (0.5, 0.5));
        assert!((bars.iter().map(|bar| bar.2).sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn bars_have_names_values_and_whiskers() {
        let row = |name: &str, value: f64| BarRow {
            name: name.to_owned(),
            values: vec![Some((value, Some([value - 0.1, value + 0.1]))), None],
        };
        let bars = Bars {
            title: "t".into(),
            axis: Axis::between("cosine", 0.0, 1.0),
            rows: vec![row("general", 0.5), row("code & more", 0.25)],
            series: vec!["one".into(), "two".into()],
        };
        let svg = bars.svg();
        assert_eq!(svg.matches("whisker").count(), 2);
        assert!(svg.contains("code &amp; more") && svg.contains(">0.25<"));
    }
}
