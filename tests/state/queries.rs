use sqlx::AssertSqlSafe;

use crate::fixture::{Fixture, SCHEMA};

/// Each file is what a real server accepts after all migrations.
#[tokio::test]
async fn every_query_can_be_prepared() {
    let fixture = Fixture::new().await;
    let mut connection = fixture.database.connect().await;
    crate::support::run(&mut connection, &format!("SET search_path = {SCHEMA}")).await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/state/queries");
    let mut prepared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let query = std::fs::read_to_string(&path).unwrap();
        let statement = format!("PREPARE query_{prepared} AS {query}");
        let result = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await;
        assert!(result.is_ok(), "{}: {result:?}", path.display());
        prepared += 1;
    }
    assert!(prepared > 20, "{prepared}");
}
