//! What is committed is what the programs say.

use std::fs;

use holdfast_docs::pages;

#[test]
fn the_committed_pages_are_the_programs_word() {
    for page in pages::make().expect("the programs tell") {
        let committed = fs::read_to_string(&page.path).unwrap_or_default();
        let differ = committed.lines().zip(page.text.lines()).find(|(old, new)| old != new);
        assert!(
            committed == page.text,
            "{} is not what the programs say: run `make docs`. First difference: {differ:#?}",
            page.path.display()
        );
    }
}
