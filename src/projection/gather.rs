//! Rows by key, many with one question to the store.
//!
//! A question costs the same trip to the store's thread or server for one row as for a hundred. So who
//! asks while a question is under way waits for it, and shares the next one with all who came meanwhile;
//! who asks alone asks at once. Owns: who waits. Invariant: a row is read after it was asked for, and
//! everybody who waits hears something.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::build::BuildId;
use super::entry::Entry;
use super::error::ViewError;
use super::sql::TableSql;
use super::views::{FoundRow, Views};

/// Rows that share a question, at most.
const TOGETHER: usize = 128;

/// What each of them hears.
pub(super) type Answer = Result<FoundRow, ViewError>;

/// A row that somebody waits for.
#[derive(Debug)]
struct Asked {
    key: String,
    reply: oneshot::Sender<Answer>,
}

/// See the file's description.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    queue: Mutex<Queue>,
    /// Of whoever serves, for the next one to use.
    known: tokio::sync::Mutex<Known>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Asked>,
    /// Whether somebody asks the store until nobody waits.
    is_served: bool,
}

/// The statements for the build that answered last.
pub(super) type Known = Option<(BuildId, TableSql)>;

impl Gatherer {
    /// The row of a key, read from now on.
    pub(super) async fn row(&self, views: &Views, entry: &Arc<Entry>, key: &str) -> Answer {
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            key: key.to_owned(),
            reply,
        };
        let was_served = {
            let mut queue = self.queue.lock();
            queue.waiting.push(asked);
            std::mem::replace(&mut queue.is_served, true)
        };
        if !was_served {
            // A task of its own: whoever asked may leave, the others still wait.
            tokio::spawn(serve(views.clone(), Arc::clone(entry)));
        }
        let lost = |_| Err(ViewError::Store("reading rows has ended early".to_owned()));
        answer.await.unwrap_or_else(lost)
    }

    /// The next to be asked for together; none when nobody waits, and then nobody serves.
    fn next(&self) -> Vec<Asked> {
        let mut queue = self.queue.lock();
        // Whoever is gone would only make the others wait until they go as well.
        queue.waiting.retain(|asked| !asked.reply.is_closed());
        let count = queue.waiting.len().min(TOGETHER);
        queue.is_served = count > 0;
        queue.waiting.drain(..count).collect()
    }
}

/// Lets the next one serve should this one end early.
struct Serving<'a> {
    gatherer: &'a Gatherer,
    is_over: bool,
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            *self.gatherer.queue.lock() = Queue::default();
        }
    }
}

async fn serve(views: Views, entry: Arc<Entry>) {
    let mut serving = Serving {
        gatherer: &entry.rows,
        is_over: false,
    };
    let mut known = serving.gatherer.known.lock().await;
    loop {
        let asked = serving.gatherer.next();
        if asked.is_empty() {
            // Somebody else may serve by now.
            serving.is_over = true;
            return;
        }
        let keys: Vec<&str> = asked.iter().map(|asked| &*asked.key).collect();
        let answers = views.rows(&entry, &mut known, &keys).await;
        let answers =
            answers.unwrap_or_else(|error| keys.iter().map(|_| Err(error.clone())).collect());
        for (asked, answer) in asked.into_iter().zip(answers) {
            // Whoever is gone does not want it any more.
            let _gone = asked.reply.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_gone_is_not_asked_for() {
        let gatherer = Gatherer::default();
        let answers: Vec<_> = (0..300)
            .map(|key| {
                let (reply, answer) = oneshot::channel();
                let key = key.to_string();
                gatherer.queue.lock().waiting.push(Asked { key, reply });
                answer
            })
            .collect();
        // The oldest have waited for too long and are gone.
        let left: Vec<_> = answers.into_iter().skip(290).collect();
        let keys: Vec<_> = gatherer.next().into_iter().map(|asked| asked.key).collect();
        assert_eq!((keys.len(), keys[0].as_str(), left.len()), (10, "290", 10));
        assert!(gatherer.next().is_empty() && !gatherer.queue.lock().is_served);
    }
}
