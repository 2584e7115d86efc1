//! What a test tells the program in confidence, and the search for it in what everybody may read.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use demo::cluster::Method;
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::scene::Scene;

/// The password of the source's user.
pub const SOURCE: &str = "zQ7source-hunter2";
/// A password that nobody has.
pub const WRONG: &str = "zQ7wrong-hunter2";
/// The password of the role.
const POSTGRES: &str = "zQ7postgres-hunter2";
/// What every password has in it.
const MARK: &str = "hunter2";

/// A user of the source, a key of the destination and a role of Postgres: each may do everything, and each has a secret
/// that is easily found.
pub struct Confided {
    /// The name of the user and of the role.
    pub name: String,
    /// The key in its encoded form.
    pub key: String,
    /// The URL of the database as it is in the manifest of the scene.
    pub administrator: String,
    server: String,
}

impl Confided {
    pub async fn to(scene: &Scene) -> Confided {
        let name = format!("secretive_{}", scene.first_id);
        let user = json!({"password": SOURCE, "roles": ["superuser"]});
        scene.source().put(&format!("/_security/user/{name}"), &user).await.expect("a user");
        let wanted = json!({"name": "test of secrecy", "expiration": "1h"});
        let key = scene.destination().post("/_security/api_key", &wanted).await.expect("a key");
        let role = format!("CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{POSTGRES}'");
        sqlx::raw_sql(AssertSqlSafe(role)).execute(scene.pool()).await.expect("a role");
        let manifest = scene.manifest(8);
        let (_, url) = manifest.split_once("stringData: {url: \"").expect("the database");
        let (administrator, _) = url.split_once('"').expect("its URL");
        let (_, server) = administrator.rsplit_once('@').expect("its server");
        Confided {
            key: key["encoded"].as_str().expect("the key").to_owned(),
            administrator: administrator.to_owned(),
            server: server.to_owned(),
            name,
        }
    }

    /// The URL of the database for the role.
    pub fn url(&self) -> String {
        self.url_with(POSTGRES)
    }

    pub fn url_with(&self, password: &str) -> String {
        format!("postgresql://{}:{password}@{}", self.name, self.server)
    }

    /// Nothing of it is in that text, in any form in which it travels.
    pub fn assert_untold(&self, place: &str, text: &str) {
        assert!(!text.is_empty(), "{place} is empty: there is nothing to look at");
        for needle in self.needles() {
            if let Some(at) = text.find(&needle) {
                let line = text[..at].lines().count().saturating_sub(1);
                panic!("{needle} is in {place}: {:?}", text.lines().nth(line));
            }
        }
    }

    fn needles(&self) -> Vec<String> {
        let plain = String::from_utf8(STANDARD.decode(&self.key).expect("it is encoded")).expect("text");
        let (_, half) = plain.split_once(':').expect("its id comes first");
        let mut all = vec![MARK.to_owned(), self.key.clone(), half.to_owned()];
        // As Secrets have them.
        all.extend([STANDARD.encode(&self.key), STANDARD.encode(self.url())]);
        for password in [SOURCE, WRONG, POSTGRES] {
            all.push(STANDARD.encode(password));
            all.push(STANDARD.encode(format!("{}:{password}", self.name)));
        }
        all
    }

    /// Users and roles are the servers' own: a test ends with this, when nobody uses them any more.
    pub async fn forget(&self, scene: &Scene) {
        let name = &self.name;
        let drop = format!("REASSIGN OWNED BY {name} TO postgres; DROP OWNED BY {name}; DROP ROLE {name}");
        sqlx::raw_sql(AssertSqlSafe(drop)).execute(scene.pool()).await.expect("the role goes");
        let path = format!("/_security/user/{name}");
        scene.source().require(Method::DELETE, &path, None).await.expect("the user goes");
    }
}

/// Every row of every table of the state, as text.
pub async fn state(scene: &Scene) -> String {
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'es_index_merge'")
            .fetch_all(scene.pool())
            .await
            .expect("the tables");
    assert!(tables.len() > 5, "{tables:?}");
    let mut text = String::new();
    for table in tables {
        let query =
            format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM es_index_merge.{table} AS t");
        let rows: String =
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(scene.pool()).await.expect("its rows");
        text.push_str(&rows);
    }
    text
}
