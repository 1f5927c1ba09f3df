//! Rows in columns as wide as their widest cell, cut to the terminal.

use crate::console::{self, Tone};

/// Between two columns.
const GAP: &str = "  ";
/// A column is not cut below this.
const WIDTH_MIN: usize = 8;

/// What a table shows of one thing. The same type is its JSON form.
pub(crate) trait Row {
    /// Titles of the columns; one that begins with `>` has its cells at the right.
    const TITLES: &'static [&'static str];

    /// As many cells as titles.
    fn cells(&self) -> Vec<Cell>;
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// In a colour.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Cell {
        // A control character of a client id shall not reach the terminal.
        let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        Cell { text: text.into().chars().map(clean).collect(), tone }
    }

    /// A dash for nothing.
    pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> Cell {
        value.map_or_else(|| Cell::from("-"), |value| Cell::from(value.to_string()))
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn fit(&self, width: usize, right: bool) -> String {
        let text = if self.width() > width {
            self.text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
        } else {
            self.text.clone()
        };
        let padding = " ".repeat(width.saturating_sub(text.chars().count()));
        let painted = self.tone.paint(&text);
        if right { padding + &painted } else { painted + &padding }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell::toned(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell::toned(text, Tone::Plain)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Cell {
        Cell::from(number.to_string())
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Cell {
        Cell::from(number.to_string())
    }
}

/// The rows with titles, as wide as the terminal at most.
pub(crate) fn render<R: Row>(rows: &[R]) -> String {
    render_within(rows, console::width().unwrap_or(usize::MAX))
}

/// Prints the rows, or says on stderr that there are none.
pub(crate) fn show<R: Row>(rows: &[R], none: &str) {
    match rows {
        [] => console::note(none),
        rows => console::line(render(rows)),
    }
}

fn render_within<R: Row>(rows: &[R], room: usize) -> String {
    let titles: Vec<Cell> = R::TITLES
        .iter()
        .map(|title| Cell::toned(title.trim_start_matches('>'), Tone::Title))
        .collect();
    let lines: Vec<Vec<Cell>> =
        std::iter::once(titles).chain(rows.iter().map(Row::cells)).collect();
    let widest =
        |column: usize| lines.iter().filter_map(move |line| line.get(column)).map(Cell::width);
    let natural = (0..R::TITLES.len()).map(|column| widest(column).max().unwrap_or(0)).collect();
    let widths = narrowed(natural, room);
    let text = |line: &Vec<Cell>| {
        let columns = line.iter().zip(&widths).zip(R::TITLES);
        let cells = columns.map(|((cell, width), title)| cell.fit(*width, title.starts_with('>')));
        cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
    };
    lines.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Takes from the widest columns until all fit.
fn narrowed(mut widths: Vec<usize>, room: usize) -> Vec<usize> {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > room {
        let Some(widest) = widths.iter_mut().max().filter(|widest| **widest > WIDTH_MIN) else {
            break;
        };
        *widest -= 1;
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Line(&'static str, u64);

    impl Row for Line {
        const TITLES: &'static [&'static str] = &["name", ">count"];

        fn cells(&self) -> Vec<Cell> {
            vec![self.0.into(), self.1.into()]
        }
    }

    #[test]
    fn columns_line_up_and_numbers_are_at_the_right() {
        let text = render_within(&[Line("a", 5), Line("longer", 12)], 80);
        assert_eq!(text, "name    count\na           5\nlonger     12");
    }

    #[test]
    fn the_widest_column_gives_way_to_a_narrow_terminal() {
        let text = render_within(&[Line("a-very-long-client-id", 5)], 17);
        assert_eq!(text, "name        count\na-very-lo…      5");
    }

    #[test]
    fn a_client_id_cannot_write_on_the_terminal() {
        let text = render_within(&[Line("a\u{1b}[2Jb\n", 5)], 80);
        assert!(!text.contains('\u{1b}') && text.lines().count() == 2, "{text:?}");
    }
}
