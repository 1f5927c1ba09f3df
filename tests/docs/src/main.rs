//! Writes the pages: `make docs`.

use std::fs;
use std::process::ExitCode;

use holdfast_docs::pages;

fn main() -> ExitCode {
    let pages = match pages::make() {
        Ok(pages) => pages,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for page in pages {
        if let Err(error) = fs::write(&page.path, page.text) {
            eprintln!("{}: {error}", page.path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
