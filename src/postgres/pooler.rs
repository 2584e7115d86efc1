//! Poolers that hand sessions of the server from client to client (`pool_mode = transaction` or `statement` of `PgBouncer`, and
//! their like), told from those whose sessions last and from no pooler at all.
//!
//! A setting of a session is made on one connection and looked for on another. It has a name that nothing else reads, and is
//! emptied afterwards; it may stay on a session that a pooler does not give us again. All is asked by the simple protocol, so
//! that no prepared statement gets into the way.
//!
//! A pooler whose other clients keep it busy may by chance give the same sessions to the same connections each time; so it is
//! asked several times.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Error, FromRow};

const ROUNDS: usize = 3;

/// What a connection was seen to have behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    /// The process id of the server's session.
    session: i32,
    /// Whether it has our mark.
    is_marked: bool,
}

/// One connection is marked, then the other is looked at, then the first again.
#[derive(Debug, Clone, Copy)]
struct Round {
    marked: Look,
    other: Look,
    again: Look,
}

/// Whether the sessions behind these two connections are not theirs alone.
pub(super) async fn shares_sessions(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, Error> {
    // Of this call alone: another process may look at the same time.
    let mark = rand::random::<u64>();
    let mut rounds = Vec::with_capacity(ROUNDS);
    while rounds.len() < ROUNDS && !are_shared(&rounds) {
        rounds.push(Round {
            marked: set(one, &mark.to_string()).await?,
            other: look(other, mark).await?,
            again: look(one, mark).await?,
        });
    }
    set(one, "").await?;
    set(other, "").await?;
    Ok(are_shared(&rounds))
}

/// Whether any round shows what cannot be where each connection has its own session all the time: another session behind it
/// than before, a mark that is gone, or one that nobody set there.
fn are_shared(rounds: &[Round]) -> bool {
    let Some(first) = rounds.first() else { return false };
    rounds.iter().any(|Round { marked, other, again }| {
        let has_moved = [marked, again].iter().any(|seen| seen.session != first.marked.session)
            || other.session != first.other.session;
        has_moved || !again.is_marked || other.is_marked
    })
}

async fn set(connection: &mut PgConnection, value: &str) -> Result<Look, Error> {
    ask(connection, &format!("set_config('es_index_merge.probe', '{value}', false) = '{value}'")).await
}

async fn look(connection: &mut PgConnection, mark: u64) -> Result<Look, Error> {
    let is_marked = format!("coalesce(current_setting('es_index_merge.probe', true) = '{mark}', false)");
    ask(connection, &is_marked).await
}

/// Safe: the conditions are ours, with a number in them at most.
async fn ask(connection: &mut PgConnection, condition: &str) -> Result<Look, Error> {
    let statement = format!("SELECT pg_backend_pid(), {condition}");
    let row = sqlx::raw_sql(AssertSqlSafe(statement)).fetch_one(connection).await?;
    let (session, is_marked) = <(i32, bool)>::from_row(&row)?;
    Ok(Look { session, is_marked })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(session: i32, is_marked: bool) -> Look {
        Look { session, is_marked }
    }

    /// As it is where each connection has its own session.
    fn apart() -> Round {
        Round { marked: look(1, true), other: look(2, false), again: look(1, true) }
    }

    #[test]
    fn sessions_that_last_are_not_shared() {
        assert!(!are_shared(&[]));
        assert!(!are_shared(&[apart(); ROUNDS]));
        // Two servers behind one address number their sessions alike.
        assert!(!are_shared(&[Round { other: look(1, false), ..apart() }; ROUNDS]));
    }

    #[test]
    fn a_mark_that_is_seen_elsewhere_or_gone_is_of_a_shared_session() {
        assert!(are_shared(&[Round { other: look(1, true), ..apart() }]));
        // The pooler resets a session before it hands it on.
        assert!(are_shared(&[Round { other: look(1, false), again: look(1, false), ..apart() }]));
    }

    #[test]
    fn a_session_that_changes_is_shared_also_from_one_round_to_the_next() {
        assert!(are_shared(&[Round { again: look(3, true), ..apart() }]));
        // Two sessions in turn, so that each mark is found again: 1, 2, 1 and then 2, 1, 2.
        let in_turn = Round { marked: look(2, true), other: look(1, false), again: look(2, true) };
        assert!(are_shared(&[apart(), in_turn]));
        assert!(are_shared(&[apart(), apart(), Round { other: look(3, false), ..apart() }]));
    }
}
