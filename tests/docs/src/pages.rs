//! The two pages and where they are.

use std::path::{Path, PathBuf};

use crate::program::{Program, ProgramError};
use crate::{config_page, metrics_page};

/// A page with the text that it should have.
#[derive(Debug, Clone)]
pub struct Page {
    /// Where it is committed.
    pub path: PathBuf,
    /// Markdown.
    pub text: String,
}

/// Both pages, made from the programs.
pub fn make() -> Result<Vec<Page>, ProgramError> {
    let programs = Program::all()?;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    Ok(vec![
        Page { path: deploy.join("CONFIG.md"), text: config_page::make(&programs)? },
        Page { path: deploy.join("METRICS.md"), text: metrics_page::make(&programs)? },
    ])
}

/// One line of a table, whatever the text.
pub(crate) fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
