//! The peer that a team would write instead: axum, a pool, prepared statements, one transaction a
//! command.
//!
//! A command is one statement that changes the row under the rule and inserts the event, so it
//! costs one round trip and one commit. That is kinder to PostgreSQL than a transaction of several
//! statements.

use std::net::SocketAddr;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{NoTls, Row};

use crate::account::{Account, Command, Outcome, Refusal, record};
use crate::http::{Store, serve_in_runtime};

/// Settings of the PostgreSQL peer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// How to connect, such as `host=/tmp/socket user=postgres dbname=postgres`.
    #[arg(long)]
    database: String,
    /// Connections to the database.
    #[arg(long, default_value_t = 32)]
    pool: usize,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS account (
        id text PRIMARY KEY,
        owner text NOT NULL,
        currency text NOT NULL,
        balance_cents bigint NOT NULL CHECK (balance_cents >= 0),
        sequence_number bigint NOT NULL
    ) WITH (fillfactor = 50);
    CREATE TABLE IF NOT EXISTS event (
        position bigint GENERATED ALWAYS AS IDENTITY,
        aggregate_id text NOT NULL,
        sequence_number bigint NOT NULL,
        event_type text NOT NULL,
        record bytea NOT NULL,
        PRIMARY KEY (aggregate_id, sequence_number)
    );";

const OPEN: &str = "
    WITH opened AS (
        INSERT INTO account VALUES ($1, $2, $3, 0, 1) ON CONFLICT DO NOTHING RETURNING id
    )
    INSERT INTO event (aggregate_id, sequence_number, event_type, record)
    SELECT id, 1, 'AccountOpened', $4 FROM opened RETURNING sequence_number, position";

const CHANGE: &str = "
    WITH changed AS (
        UPDATE account
        SET balance_cents = balance_cents + $2, sequence_number = sequence_number + 1
        WHERE id = $1 AND balance_cents + $2 >= 0
        RETURNING id, sequence_number
    )
    INSERT INTO event (aggregate_id, sequence_number, event_type, record)
    SELECT id, sequence_number, $3, $4 FROM changed RETURNING sequence_number, position";

const READ: &str =
    "SELECT owner, currency, balance_cents, sequence_number FROM account WHERE id = $1";

/// A pool of connections.
struct Postgres {
    pool: Pool,
}

/// Makes the tables and serves.
pub(crate) fn serve(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let config = args.database.parse::<tokio_postgres::Config>()?;
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(args.pool)
            .runtime(Runtime::Tokio1)
            .build()?;
        pool.get().await?.batch_execute(SCHEMA).await?;
        serve_in_runtime(args.listen, Postgres { pool }).await
    })
}

impl Store for Postgres {
    async fn execute(&self, id: String, command: Command) -> Result<Outcome, Refusal> {
        let event_type = command.event_type();
        let delta = command
            .delta_cents()
            .ok_or(Refusal::Rejected("insufficient-funds"))?;
        // The sequence number is the database's to give; its column carries it.
        let record = record(&id, event_type, 0, delta);
        let client = self.pool.get().await.map_err(failed)?;
        let row = match command {
            Command::Open(open) => {
                let statement = client.prepare_cached(OPEN).await.map_err(failed)?;
                let row = client
                    .query_opt(&statement, &[&id, &open.owner, &open.currency, &record])
                    .await
                    .map_err(failed)?;
                row.ok_or(Refusal::Rejected("account-already-open"))?
            }
            Command::Deposit(_) | Command::Withdraw(_) => {
                let statement = client.prepare_cached(CHANGE).await.map_err(failed)?;
                let row = client
                    .query_opt(&statement, &[&id, &delta, &event_type, &record])
                    .await
                    .map_err(failed)?;
                drop(client);
                match row {
                    Some(row) => row,
                    None => return Err(self.why_not(&id).await?),
                }
            }
        };
        outcome(&row, event_type)
    }

    async fn read(&self, id: &str) -> Result<Option<Account>, Refusal> {
        let client = self.pool.get().await.map_err(failed)?;
        let statement = client.prepare_cached(READ).await.map_err(failed)?;
        let row = client.query_opt(&statement, &[&id]).await.map_err(failed)?;
        row.map(|row| {
            Ok(Account {
                owner: row.try_get(0).map_err(failed)?,
                currency: row.try_get(1).map_err(failed)?,
                balance_cents: row.try_get(2).map_err(failed)?,
                status: "open",
                sequence_number: row.try_get(3).map_err(failed)?,
            })
        })
        .transpose()
    }
}

impl Postgres {
    /// Names the rule that kept a statement from changing a row.
    async fn why_not(&self, id: &str) -> Result<Refusal, Refusal> {
        Ok(Refusal::Rejected(match self.read(id).await? {
            Some(_) => "insufficient-funds",
            None => "account-not-open",
        }))
    }
}

fn outcome(row: &Row, event_type: &'static str) -> Result<Outcome, Refusal> {
    let position: i64 = row.try_get(1).map_err(failed)?;
    Ok(Outcome {
        event_type,
        sequence_number: row.try_get(0).map_err(failed)?,
        position: position.unsigned_abs(),
    })
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Store(error.to_string())
}
