//! The programs that `docs/YOUR_OWN_AGGREGATE.md` and `docs/EVOLUTION.md` show: they compile, their own
//! tests pass, and the pages show exactly these texts.

#[path = "own_aggregate/program.rs"]
#[expect(dead_code, reason = "its `main` runs a node until it is told to stop")]
mod program;

#[path = "own_aggregate/evolved.rs"]
mod evolved;

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

#[test]
fn the_page_about_evolution_shows_the_example_that_is_tested() {
    let page = include_str!("../docs/EVOLUTION.md");
    let shown = page
        .split_once("```rust\n")
        .and_then(|(_, rest)| rest.split_once("```\n"))
        .map(|(program, _)| program);
    assert_eq!(
        shown,
        Some(include_str!("own_aggregate/evolved.rs")),
        "copy tests/own_aggregate/evolved.rs into docs/EVOLUTION.md"
    );
}
