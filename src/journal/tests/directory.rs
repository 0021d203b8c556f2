//! Whose directory it is, and who may use it.

use std::fs;

use super::super::{Identity, JournalOptions, OpenError};
use super::kit::{self, Bench, SHARDS, append, history};

fn with(bench: &Bench, change: impl FnOnce(&mut Identity)) -> OpenError {
    let mut options = kit::options(&bench.path());
    change(&mut options.identity);
    bench.try_open(&options).unwrap_err()
}

#[test]
fn another_owner_is_refused_by_the_name_of_the_setting() {
    for bench in Bench::all() {
        let journal = bench.open();
        append(&journal, 0, history(3, 1));
        journal.shutdown();
        drop(journal);
        let name = with(&bench, |identity| identity.cluster_name = "prod".to_owned());
        let node = with(&bench, |identity| identity.node_id = 2);
        let shards = with(&bench, |identity| identity.shards = 8);
        let path = bench.path();
        let path = path.display();
        assert_eq!(
            name.to_string(),
            format!("`cluster.name` is \"prod\", but {path} was formatted with \"test\"")
        );
        assert_eq!(
            node.to_string(),
            format!("`node.id` is 2, but {path} was formatted with 1")
        );
        assert_eq!(
            shards.to_string(),
            format!("`cluster.shards` is 8, but {path} was formatted with {SHARDS}")
        );
        assert_eq!(bench.open().last_position(0).unwrap(), 2);
    }
}

#[test]
fn a_second_user_is_refused() {
    for bench in Bench::all() {
        let journal = bench.open();
        let refused = bench.try_open(&kit::options(&bench.path())).unwrap_err();
        assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
        drop(journal);
        drop(bench.open());
    }
}

#[test]
fn the_refusal_names_the_process() {
    let bench = Bench::rocks();
    let _journal = bench.open();
    let refused = bench
        .try_open(&kit::options(&bench.path()))
        .unwrap_err()
        .to_string();
    let holder = format!("process {}", std::process::id());
    assert!(refused.contains(&holder), "{refused}");
}

#[test]
fn the_incarnation_stays_until_the_directory_is_wiped() {
    let bench = Bench::rocks();
    let journal = bench.open();
    let first = journal.incarnation();
    let journal = bench.reopen(journal);
    assert_eq!(journal.incarnation(), first);
    drop(journal);
    fs::remove_dir_all(bench.path()).unwrap();
    assert_ne!(bench.open().incarnation(), first);
}

#[test]
fn a_directory_with_data_but_without_a_format_file_is_not_formatted() {
    let bench = Bench::rocks();
    drop(bench.open());
    fs::remove_file(bench.path().join("format")).unwrap();
    let refused = bench.try_open(&kit::options(&bench.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
    let foreign = Bench::rocks();
    fs::create_dir_all(foreign.path()).unwrap();
    fs::write(foreign.path().join("thesis.txt"), "years of work").unwrap();
    let refused = foreign
        .try_open(&kit::options(&foreign.path()))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("thesis.txt"), "{refused}");
}

#[test]
fn an_interrupted_formatting_is_done_again() {
    let bench = Bench::rocks();
    fs::create_dir_all(bench.path()).unwrap();
    fs::write(bench.path().join("lock"), "").unwrap();
    fs::write(bench.path().join("mark"), "half").unwrap();
    fs::write(bench.path().join("format.new"), "half").unwrap();
    append(&bench.open(), 0, history(3, 1));
}

#[test]
fn a_lost_database_is_noticed() {
    let bench = Bench::rocks();
    let journal = bench.open();
    append(&journal, 0, history(3, 1));
    journal.shutdown();
    drop(journal);
    fs::remove_dir_all(bench.path().join("db")).unwrap();
    let journal = bench.open();
    journal.shard_health(0).unwrap_err();
    journal.shard_health(1).unwrap();
}

#[test]
fn a_newer_format_is_refused() {
    let bench = Bench::rocks();
    drop(bench.open());
    let options: JournalOptions = kit::options(&bench.path());
    let file = bench.path().join("format");
    let mut format = super::super::directory::Format::open(&fs::read(&file).unwrap()).unwrap();
    format.set_version(2);
    fs::write(&file, format.seal().unwrap()).unwrap();
    let refused = bench.try_open(&options).unwrap_err();
    assert!(
        matches!(refused, OpenError::Newer { found: 2, .. }),
        "{refused}"
    );
}
