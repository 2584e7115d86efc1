//! Where the servers are: those of the environment variables, or those of the run that is up.

use anyhow::{Context, Result};
use demo::cluster::{Access, Cluster};
use reqwest::Url;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use testenv::{Env, elasticsearch, postgres};

/// Which Elasticsearch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flavor {
    /// 8.19
    #[value(name = "8")]
    V8,
    /// 9.4
    #[value(name = "9")]
    V9,
}

impl Flavor {
    fn of_testenv(self) -> elasticsearch::Flavor {
        match self {
            Self::V8 => elasticsearch::Flavor::V8,
            Self::V9 => elasticsearch::Flavor::V9,
        }
    }

    /// The part of the environment.
    pub fn part(self) -> testenv::Part {
        self.of_testenv().part()
    }
}

/// How to reach both clusters and the application's database.
pub struct Servers {
    /// Holds the old indices.
    pub source: elasticsearch::Access,
    /// Gets the merged one; may be the same.
    pub destination: elasticsearch::Access,
    /// The server's own database; the application's is another one on it.
    pub postgres: postgres::Access,
    /// The name of the application's database.
    pub database: String,
}

impl Servers {
    /// Finds the servers; what is not up is named with the remedy.
    pub async fn find(name: &str, source: Flavor, destination: Flavor, database: &str) -> Result<Self> {
        let run = name.to_owned();
        let env = tokio::task::spawn_blocking(move || Env::find(&run))
            .await
            .context("looking for the servers")??;
        let elasticsearch = |flavor: Flavor| -> Result<elasticsearch::Access> {
            let up = match flavor {
                Flavor::V8 => env.elasticsearch_8.clone(),
                Flavor::V9 => env.elasticsearch_9.clone(),
            };
            match elasticsearch::Access::from_environment(flavor.of_testenv())? {
                Some(access) => Ok(access),
                None => up.with_context(|| {
                    format!("{} is not up; run `demo up --name {name}`", flavor.part().as_str())
                }),
            }
        };
        Ok(Self {
            source: elasticsearch(source)?,
            destination: elasticsearch(destination)?,
            postgres: postgres::Access::from_environment()
                .or(env.postgres.clone())
                .with_context(|| format!("Postgres is not up; run `demo up --name {name}`"))?,
            database: database.to_owned(),
        })
    }

    /// Connections to source and destination.
    pub async fn clusters(&self) -> Result<(Cluster, Cluster)> {
        Ok((
            Cluster::connect(Access::of(&self.source)?).await?,
            Cluster::connect(Access::of(&self.destination)?).await?,
        ))
    }

    /// The URL of the application's database, with its password.
    pub fn database_url(&self) -> Result<String> {
        let mut url = Url::parse(&self.postgres.url).context("the URL of Postgres cannot be read")?;
        url.set_path(&format!("/{}", self.database));
        Ok(url.into())
    }

    /// Creates the application's database; true when it did not exist.
    pub async fn create_database(&self) -> Result<bool> {
        let server = PgPoolOptions::new()
            .max_connections(1)
            .connect(&self.postgres.url)
            .await
            .context("cannot reach Postgres")?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(&self.database)
            .fetch_one(&server)
            .await?;
        if exists {
            return Ok(false);
        }
        let quoted = self.database.replace('"', "\"\"");
        // An identifier cannot be a parameter; it is quoted above.
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE \"{quoted}\""))).execute(&server).await?;
        Ok(true)
    }

    /// Connections to the application's database.
    pub async fn pool(&self) -> Result<PgPool> {
        let url = self.database_url()?;
        PgPoolOptions::new()
            .max_connections(4)
            .connect(&url)
            .await
            .with_context(|| format!("cannot reach the database {}; is it seeded?", self.database))
    }
}
