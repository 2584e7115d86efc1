//! Whether our role is enough, and shows us everything.

use crate::elastic::{Cluster, ElasticError};
use crate::merge::error::Problem;

/// How many names a message holds.
const NAMED: usize = 8;

/// What is wrong with a role that may do too little.
pub(super) fn privilege_problem(field: &str, missing: &[String]) -> Problem {
    Problem::new(
        field,
        format!("privileges are missing: {}; grant them to the user or the API key", first_of(missing)),
    )
}

/// What is wrong with a role that keeps something of these indices from us: it would be missing, and both sides would look alike.
pub(super) async fn partial_role(
    field: &str,
    cluster: &Cluster,
    indices: &[String],
) -> Result<Option<Problem>, ElasticError> {
    let kept = cluster.parts_kept_from_us(indices).await?;
    Ok((!kept.is_empty()).then(|| {
        let message = format!(
            "the role shows only a part of some indices: {}; give the user or the API key a role that has neither query nor field_security on them",
            first_of(&kept)
        );
        Problem::new(field, message)
    }))
}

/// The first of a list, and how many more there are.
fn first_of(all: &[String]) -> String {
    let named: Vec<&str> = all.iter().take(NAMED).map(String::as_str).collect();
    let more = all.len().saturating_sub(named.len());
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", named.join(", "))
}
