//! Runs in one task what an HTTP/2 connection would otherwise spread over several.
//!
//! Owns the work that hyper wants to run beside a connection: the connection itself, the pieces of its
//! bodies. A frame that arrives is read, handled and answered in one go of one task, instead of being
//! handed from task to task, each woken for it. Refuses to outlive the connection: what is left when
//! it ends is dropped with it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;
use tokio::sync::mpsc;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes the work of one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Beside(mpsc::UnboundedSender<Work>);

/// The work that was taken.
#[derive(Debug)]
pub(crate) struct Crew {
    new: mpsc::UnboundedReceiver<Work>,
    working: FuturesUnordered<Work>,
}

impl<F> Executor<F> for Beside
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        // Without a crew the connection has ended.
        let _ended = self.0.send(Box::pin(work));
    }
}

impl Beside {
    /// Whoever takes work, and who does it.
    pub(crate) fn new() -> (Self, Crew) {
        let (sender, new) = mpsc::unbounded_channel();
        let working = FuturesUnordered::new();
        (Self(sender), Crew { new, working })
    }
}

impl Crew {
    /// Works until `lead` is done.
    pub(crate) fn follow<T>(mut self, lead: impl Future<Output = T>) -> impl Future<Output = T> {
        // On the heap, so that whoever waits for it stays small.
        let mut lead = Box::pin(lead);
        poll_fn(move |context| {
            while let Poll::Ready(Some(work)) = self.new.poll_recv(context) {
                self.working.push(work);
            }
            while let Poll::Ready(Some(())) = self.working.poll_next_unpin(context) {}
            lead.as_mut().poll(context)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_is_done_beside_the_lead_also_what_it_brings_forth_itself() {
        let (beside, crew) = Beside::new();
        let (first, told) = oneshot::channel();
        let (second, heard) = oneshot::channel();
        let further = beside.clone();
        beside.execute(async move {
            further.execute(async move {
                let said: u32 = told.await.unwrap();
                second.send(said + 1).unwrap();
            });
        });
        let lead = async move {
            first.send(1).unwrap();
            heard.await
        };
        let led = tokio::time::timeout(Duration::from_secs(20), crew.follow(lead));
        assert_eq!(led.await.unwrap(), Ok(2));
    }

    #[tokio::test]
    async fn nothing_outlives_the_lead() {
        let (beside, crew) = Beside::new();
        let held = Arc::new(());
        let mine = Arc::clone(&held);
        beside.execute(async move {
            std::future::pending::<()>().await;
            drop(mine);
        });
        crew.follow(tokio::task::yield_now()).await;
        assert_eq!(Arc::strong_count(&held), 1);
        beside.execute(async {});
    }
}
