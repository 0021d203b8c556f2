//! What ends a patrol. That it finds damage is tested on running read sides, beside the other damage.

use super::*;

#[test]
fn the_log_may_be_as_long_as_it_is_or_as_is_allowed() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("views.sqlite");
    let grow = |bytes: usize| {
        std::fs::write(directory.path().join("views.sqlite-wal"), vec![0; bytes]).unwrap();
    };
    let limits = Limits::of(&path, 5);
    assert!(limits.may_go_on(), "there is none");
    grow(5);
    assert!(limits.may_go_on());
    grow(6);
    assert!(!limits.may_go_on());
    let limits = Limits::of(&path, 5);
    assert!(limits.may_go_on(), "it is as long as it was");
    grow(7);
    assert!(!limits.may_go_on());
    let limits = Arc::new(Limits::of(&path, 100));
    drop(Patrolling(Arc::clone(&limits)));
    assert!(!limits.may_go_on() && !limits.outgrown.load(Ordering::Relaxed));
}
