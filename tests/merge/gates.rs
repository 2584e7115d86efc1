//! A merge that is held at the end of a phase: its statement that would store the next one waits in the database. Whatever there
//! is to be done in the phase is done by then, so what a test does now comes between two looks of the program.

use es_index_merge::state::{DEFAULT_SCHEMA, State};
use secrecy::SecretString;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;

use crate::scene::Scene;

/// Statements that leave a phase wait for the lock of that phase; and in the cutover those that store a checkpoint, as nothing
/// that happens after the verdict is seen any more.
const GATES: &str = "
    CREATE FUNCTION public.wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(4711, hashtext(phase)) FROM es_index_merge.merge
            WHERE TG_NARGS = 0 OR phase = TG_ARGV[0];
        RETURN NULL;
    END $$;
    CREATE TRIGGER gate BEFORE UPDATE OF phase ON es_index_merge.merge
        FOR EACH STATEMENT EXECUTE FUNCTION public.wait_at_gate();
    CREATE TRIGGER gate BEFORE UPDATE OF cursor_seq ON es_index_merge.unit
        FOR EACH STATEMENT EXECUTE FUNCTION public.wait_at_gate('CuttingOver');";

/// Whether a statement waits.
const WAITS: &str = "
    SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 4711 AND NOT granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

/// The gates at the ends of some phases, shut until they are opened.
pub struct Gates {
    /// Whose locks they are.
    keeper: PoolConnection<Postgres>,
}

impl Gates {
    /// To be called once in a scene, and while no program runs. They are to be opened in the order of the phases.
    pub async fn shut(scene: &Scene, phases: &[&str]) -> Gates {
        // The schema is there before the program.
        drop(State::connect(&SecretString::from(scene.database_url()), DEFAULT_SCHEMA).await.unwrap());
        let mut keeper = scene.pool.acquire().await.unwrap();
        sqlx::raw_sql(GATES).execute(&mut *keeper).await.unwrap();
        for phase in phases {
            let lock = sqlx::query("SELECT pg_advisory_lock(4711, hashtext($1))").bind(*phase);
            lock.execute(&mut *keeper).await.unwrap();
        }
        Gates { keeper }
    }

    /// Waits until the merge stands at the gate of that phase. It is to be opened within 20 s, or the program tries again.
    pub async fn reached(&self, scene: &Scene, phase: &str) {
        scene
            .wait_for(phase, async || {
                let waits: bool = sqlx::query_scalar(WAITS).fetch_one(&scene.pool).await.unwrap();
                waits.then_some(())
            })
            .await;
        assert_eq!(scene.phase().await.as_deref(), Some(phase));
    }

    /// Lets the merge go on, once and for all.
    pub async fn open(&mut self, phase: &str) {
        let unlock = sqlx::query_scalar("SELECT pg_advisory_unlock(4711, hashtext($1))").bind(phase);
        let was_shut: bool = unlock.fetch_one(&mut *self.keeper).await.unwrap();
        assert!(was_shut, "{phase}");
    }
}
