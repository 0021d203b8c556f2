//! The program that `docs/YOUR_OWN_AGGREGATE.md` shows: it compiles, its own tests pass, and the page
//! shows exactly this text.

#[path = "own_aggregate/program.rs"]
#[expect(dead_code, reason = "its `main` runs a node until it is told to stop")]
mod program;

const PAGE: &str = include_str!("../docs/YOUR_OWN_AGGREGATE.md");
const PROGRAM: &str = include_str!("own_aggregate/program.rs");

#[test]
fn the_page_shows_the_program_that_is_tested() {
    let shown = PAGE
        .split_once("```rust,no_run\n")
        .and_then(|(_, rest)| rest.split_once("```\n"))
        .map(|(program, _)| program);
    assert_eq!(
        shown,
        Some(PROGRAM),
        "copy tests/own_aggregate/program.rs into docs/YOUR_OWN_AGGREGATE.md"
    );
}
