//! A database of its own for each test, on a real server.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod pooler;
pub mod replica;

use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};

/// An empty database; it is dropped with this.
pub struct Database(testenv::postgres::Database);

impl Database {
    pub async fn new() -> Self {
        // The first test of a process may start a server.
        let made = tokio::task::spawn_blocking(|| testenv::postgres::Postgres::shared()?.database());
        Self(made.await.unwrap().expect("a Postgres server"))
    }

    /// The URL of an administrator.
    pub fn url(&self) -> SecretString {
        SecretString::from(self.text())
    }

    pub fn text(&self) -> &str {
        &self.0.url
    }

    /// The URL of another database of that server.
    pub fn text_of(&self, name: &str) -> String {
        let (path, options) = self.text().split_once('?').unwrap_or((self.text(), ""));
        let (server, _) = path.rsplit_once('/').unwrap();
        format!("{server}/{name}?{options}")
    }

    /// The same database for another user, and with another scheme.
    pub fn url_for(&self, scheme: &str, user: &str, password: &str) -> SecretString {
        let (_, server) = self.text().rsplit_once('@').unwrap();
        SecretString::from(format!("{scheme}://{user}:{password}@{server}"))
    }

    pub async fn connect(&self) -> PgConnection {
        connect(self.text()).await
    }

    /// Runs statements as the administrator.
    pub async fn run(&self, statements: &str) {
        run(&mut self.connect().await, statements).await;
    }

    /// One number, as the administrator.
    pub async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut self.connect().await)
            .await
            .unwrap()
    }

    /// A user who may log in and nothing else. Roles belong to the server: end the test with `drop_user`.
    pub async fn user(&self) -> String {
        let name = format!("user_{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        self.run(&format!("CREATE ROLE {name} LOGIN PASSWORD 'hunter2'")).await;
        name
    }

    pub async fn drop_user(&self, name: &str) {
        self.run(&format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
    }
}

pub async fn connect(url: &str) -> PgConnection {
    url.parse::<PgConnectOptions>().unwrap().disable_statement_logging().connect().await.unwrap()
}

pub async fn run(connection: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(connection).await.unwrap();
}
