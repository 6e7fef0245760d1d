//! Bars, to be seen beside the tables: a panel for each chart, one below the other.
//! Text is written as text, so that no fonts are needed to draw it.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, Color as _, DrawingArea, FontStyle, IntoDrawingArea as _, IntoFont as _, PathElement,
    RGBColor, Rectangle, SVGBackend, TextStyle, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 960;
const MARGIN: i32 = 16;
/// Where bars begin, and the longest ends.
const BARS: (i32, i32) = (300, 830);
const ROW: i32 = 18;
const TITLE: i32 = 36;
const GROUP: i32 = 20;

/// What a bar stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Series {
    Ours,
    Theirs,
    /// What is measured for comparison.
    Other,
}

impl Series {
    const fn colour(self) -> RGBColor {
        match self {
            Self::Ours => RGBColor(0x2b, 0x6c, 0xb0),
            Self::Theirs => RGBColor(0xdd, 0x8a, 0x2e),
            Self::Other => RGBColor(0x8a, 0x94, 0xa0),
        }
    }
}

/// A figure with its name.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) series: Series,
    pub(crate) value: f64,
    /// Twice its standard error, or 0.
    pub(crate) error: f64,
}

/// Bars of one unit, in groups.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) groups: Vec<(String, Vec<Bar>)>,
    /// Where a line is, of which the title says what it means.
    pub(crate) mark: Option<f64>,
}

impl Chart {
    fn height(&self) -> i32 {
        let groups = self.groups.iter().map(|(_, bars)| GROUP + ROW * length(bars));
        TITLE + groups.sum::<i32>() + MARGIN
    }

    fn longest(&self) -> f64 {
        let bars = self.groups.iter().flat_map(|(_, bars)| bars);
        bars.map(|bar| bar.value + bar.error).chain(self.mark).fold(f64::MIN_POSITIVE, f64::max)
    }
}

/// Draws charts into a file.
pub(crate) fn draw(file: &Path, charts: &[Chart]) -> Result<()> {
    let height = charts.iter().map(Chart::height).sum::<i32>() + MARGIN;
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let area = SVGBackend::new(file, size).into_drawing_area();
    let drawn = || -> Result<(), Failure> {
        area.fill(&WHITE)?;
        let mut top = MARGIN;
        for chart in charts {
            panel(&area, chart, top)?;
            top += chart.height();
        }
        area.present()
    };
    // Its errors can't be sent to other threads, as ours must be.
    drawn().map_err(|error| anyhow!("{error}"))
}

type Failure = plotters::drawing::DrawingAreaErrorKind<std::io::Error>;

fn panel(area: &Area<'_>, chart: &Chart, top: i32) -> Result<(), Failure> {
    let scale = f64::from(BARS.1 - BARS.0) / chart.longest();
    let at = |value: f64| BARS.0 + pixels(value * scale);
    area.draw_text(
        &chart.title,
        &text(15, FontStyle::Bold, HPos::Left),
        (MARGIN, top + TITLE / 2),
    )?;
    let (mut row, begin) = (top + TITLE, top + TITLE);
    for (name, bars) in &chart.groups {
        area.draw_text(name, &text(12, FontStyle::Bold, HPos::Left), (MARGIN, row + GROUP / 2))?;
        row += GROUP;
        for bar in bars {
            let middle = row + ROW / 2;
            let label = text(12, FontStyle::Normal, HPos::Right);
            area.draw_text(&bar.label, &label, (BARS.0 - 8, middle))?;
            let corners = [(BARS.0, row + 3), (at(bar.value), row + ROW - 3)];
            area.draw(&Rectangle::new(corners, bar.series.colour().filled()))?;
            let error =
                if bar.error > 0.0 { format!(" \u{b1}{:.2}", bar.error) } else { String::new() };
            let ends = [at(bar.value - bar.error), at(bar.value + bar.error)];
            area.draw(&PathElement::new(ends.map(|end| (end, middle)), BLACK))?;
            let figure = format!("{}{error}", short(bar.value));
            let place = (ends[1] + 6, middle);
            area.draw_text(&figure, &text(12, FontStyle::Normal, HPos::Left), place)?;
            row += ROW;
        }
    }
    if let Some(mark) = chart.mark {
        let line = [(at(mark), begin), (at(mark), row)];
        area.draw(&PathElement::new(line, RGBColor(0xc0, 0x30, 0x30)))?;
    }
    Ok(())
}

fn text(pixels: u32, style: FontStyle, edge: HPos) -> TextStyle<'static> {
    // What plotters calls size is that of a font's lines.
    let font = ("sans-serif", f64::from(pixels) * 1.24).into_font().style(style);
    TextStyle::from(font).pos(Pos::new(edge, VPos::Center))
}

/// A figure with as many digits as are of use.
fn short(value: f64) -> String {
    if value.abs() >= 20.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[expect(clippy::cast_possible_truncation, reason = "a place within the chart")]
fn pixels(length: f64) -> i32 {
    length.round() as i32
}

fn length(bars: &[Bar]) -> i32 {
    i32::try_from(bars.len()).unwrap_or(i32::MAX)
}
