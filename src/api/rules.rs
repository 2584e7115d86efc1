//! The CEL rules of the definition.
//!
//! Each message names the field, what is wrong with its value and what to do. A URL is never repeated in a
//! message: it may hold a password by mistake, and the API server's answers end up in logs.

use kube::core::{Message, Rule};

/// One number of an address of version 4.
const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

/// A name of a host. One that ends in a number would be taken for an address.
const NAME: &str = "([A-Za-z0-9_-]+[.])*[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_-]*[.]?";

/// 1 to 65535.
const PORT: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// One node's URL, as a regular expression inside a CEL text.
fn node() -> String {
    let version_6 = r"\\[[0-9A-Fa-f:.]+\\]";
    let host = format!("({NAME}|({BYTE}[.]){{3}}{BYTE}|{version_6})");
    format!(r"https?://{host}(:{PORT})?(/[^?#,\\s]*)?")
}

/// What a user can do about a change of an immutable field.
const REMEDY: &str =
    "put the old value back, or delete this resource and create another one with the new value";

/// A required scalar `field` of the object at `path` keeps its value for ever.
pub(super) fn immutable(path: &str, field: &str) -> Rule {
    immutable_or(path, field, None)
}

/// An optional scalar `field` keeps its value for ever; leaving it out means `default` (a CEL literal), so
/// writing the default down later is no change.
pub(super) fn immutable_with_default(path: &str, field: &str, default: &str) -> Rule {
    immutable_or(path, field, Some(default))
}

fn immutable_or(path: &str, field: &str, default: Option<&str>) -> Rule {
    let value = |object: &str| match default {
        Some(default) => format!("(has({object}.{field}) ? {object}.{field} : {default})"),
        None => format!("{object}.{field}"),
    };
    let (old, new) = (value("oldSelf"), value("self"));
    Rule::new(format!("{new} == {old}")).field_path(format!(".{field}")).message(with_values(
        &format!("{path}.{field} cannot change from \"%s\" to \"%s\": it says which merge this is; {REMEDY}"),
        &[&old, &new],
    ))
}

/// A message in which each `%s` is the value of a CEL expression. (`format` and not `+`: the API server estimates
/// what an expression may cost, and takes a number turned into text for endlessly long.)
fn with_values(text: &str, values: &[&str]) -> Message {
    Message::Expression(format!("'{text}'.format([{}])", values.join(", ")))
}

/// A URL keeps its value for ever. The message does not repeat it.
pub(super) fn immutable_url(path: &str) -> Rule {
    Rule::new("self.url == oldSelf.url")
        .field_path(".url")
        .message(format!("{path}.url cannot change: it says which merge this is; {REMEDY}").as_str())
}

/// An optional object `field` of the object at `path` is neither changed, nor added, nor removed.
pub(super) fn immutable_object(path: &str, field: &str) -> Rule {
    Rule::new(format!(
        "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
    ))
    .field_path(format!(".{field}"))
    .message(
        format!("{path}.{field} cannot be changed, added or removed: it says which merge this is; {REMEDY}")
            .as_str(),
    )
}

/// No user name and no password in the URLs of the field at `path`.
pub(super) fn url_without_credentials(path: &str) -> Rule {
    Rule::new("!self.contains('@')").message(
        format!(
            "{path} must not contain a user name or a password (\"@\"); put them into a Secret and name it in \
             credentialsSecretRef"
        )
        .as_str(),
    )
}

/// One `http(s)://host[:port][/path]`, or several separated by commas.
pub(super) fn url_form(path: &str) -> Rule {
    let node = node();
    Rule::new(format!("self.contains('@') || self.matches('^{node}( *, *{node})*$')")).message(
        format!(
            "{path} must be https://host:port (or http://), with a port from 1 to 65535, several nodes of one cluster \
             separated by commas, without query and fragment, for instance https://elasticsearch:9200"
        )
        .as_str(),
    )
}

/// Verification is either done against a given authority or not done at all.
pub(super) fn ca_or_insecure(path: &str) -> Rule {
    Rule::new("!(has(self.caSecretRef) && has(self.insecureSkipVerify) && self.insecureSkipVerify)").message(
        format!(
            "{path}: caSecretRef and insecureSkipVerify exclude each other; remove insecureSkipVerify to verify \
             the certificate against the given authority"
        )
        .as_str(),
    )
}

/// The names Elasticsearch allows for a new index or alias; `value` is a CEL expression of a string.
fn index_name_is_valid(value: &str) -> String {
    format!(
        "({value} == {value}.lowerAscii() && !{value}.matches('^[-_+.]') && \
         !{value}.matches('[\\\\\\\\/*?\"<>|,#:\\\\s]') && size(bytes({value})) <= 255)"
    )
}

/// The name of the destination follows the rules of Elasticsearch.
pub(super) fn index_name() -> Rule {
    Rule::new(index_name_is_valid("self")).message(with_values(
        "spec.destination.index.name \"%s\" is not a name for an index: use at most 255 bytes of \
         lower case letters, digits, \"-\", \"_\" and \".\", and begin with a letter or a digit",
        &["self"],
    ))
}

/// The destination cannot be taken for a source.
pub(super) fn index_name_is_no_number() -> Rule {
    Rule::new("!self.matches('^[0-9]+$')").message(with_values(
        "spec.destination.index.name \"%s\" is a number, as the names of the sources are; choose a \
         name with a letter in it, for instance \"opengatellm\"",
        &["self"],
    ))
}

/// Each alias follows the rules of Elasticsearch.
pub(super) fn alias_names() -> Rule {
    Rule::new(format!("self.all(a, {})", index_name_is_valid("a"))).message(
        "spec.cutover.aliases: each must be a name for an alias: at most 255 bytes of lower case letters, digits, \
         \"-\", \"_\" and \".\", beginning with a letter or a digit",
    )
}

/// No alias can be taken for a source.
pub(super) fn aliases_are_no_numbers() -> Rule {
    Rule::new("!self.exists(a, a.matches('^[0-9]+$'))").message(with_values(
        "spec.cutover.aliases contains \"%s\", which is a number, as the names of the sources are; choose an alias \
         with a letter in it",
        &["self.filter(a, a.matches('^[0-9]+$'))[0]"],
    ))
}

/// An alias cannot have the name of an index.
pub(super) fn alias_is_not_the_index() -> Rule {
    Rule::new(
        "!has(self.cutover) || !has(self.cutover.aliases) || \
         !(self.destination.index.name in self.cutover.aliases)",
    )
    .field_path(".cutover.aliases")
    .message(with_values(
        "spec.cutover.aliases contains \"%s\", which is the name of the destination index itself; \
         remove it from the list",
        &["self.destination.index.name"],
    ))
}

/// Whether sources are to be deleted; `object` is a CEL expression of `spec.cutover`.
fn deletes_sources(object: &str) -> String {
    format!("(has({object}.deleteSources) && {object}.deleteSources == 'AfterVerification')")
}

/// What may have been written to after the verdict is not deleted.
pub(super) fn deletion_needs_blocked_sources() -> Rule {
    let deletes = deletes_sources("self");
    Rule::new(format!("!{deletes} || !has(self.sourceWrites) || self.sourceWrites == 'Block'"))
        .field_path(".deleteSources")
        .message(with_values(
            "spec.cutover.deleteSources is \"%s\" and spec.cutover.sourceWrites is \"%s\": an index that may be \
             written to again is not deleted; set deleteSources to Never, or sourceWrites to Block",
            &["self.deleteSources", "self.sourceWrites"],
        ))
}

/// A time that means nothing is not set. To give a deletion up it is enough to set `Never`: that must never be
/// refused, so a `retainFor` that was there before may stay.
pub(super) fn retention_needs_a_deletion() -> Rule {
    let (deletes, has_deleted) = (deletes_sources("self.cutover"), deletes_sources("old.cutover"));
    Rule::new(format!(
        "!has(self.cutover) || !has(self.cutover.retainFor) || {deletes} || \
         oldSelf.optMap(old, has(old.cutover) && ({has_deleted} || (has(old.cutover.retainFor) && \
         self.cutover.retainFor == old.cutover.retainFor))).orValue(false)"
    ))
    // Also asked when the resource is created: then there is no old one.
    .optional_old_self(true)
    .field_path(".cutover.retainFor")
    .message(with_values(
        "spec.cutover.retainFor is \"%s\", but deleteSources is Never, so nothing is deleted after that time; remove \
         retainFor, or set deleteSources to AfterVerification",
        &["self.cutover.retainFor"],
    ))
}

/// What was only counted is not deleted.
pub(super) fn deletion_needs_a_full_verification() -> Rule {
    let deletes = deletes_sources("self.cutover");
    Rule::new(format!(
        "!has(self.cutover) || !{deletes} || !has(self.verification) || !has(self.verification.mode) || \
         self.verification.mode == 'Full'"
    ))
    .field_path(".cutover.deleteSources")
    .message(with_values(
        "spec.cutover.deleteSources is \"%s\" and spec.verification.mode is \"%s\": an index whose chunks were not \
         compared is not deleted; set deleteSources to Never, or the mode to Full",
        &["self.cutover.deleteSources", "self.verification.mode"],
    ))
}

/// A collection is not at once included and excluded.
pub(super) fn include_and_exclude_are_disjoint() -> Rule {
    Rule::new("!has(self.include) || !has(self.exclude) || !self.include.exists(i, i in self.exclude)")
        .field_path(".exclude")
        .message(with_values(
            "spec.collections: %s is in include and in exclude; remove it from one of them",
            &["self.include.filter(i, i in self.exclude)[0]"],
        ))
}

/// Elasticsearch packs two 4-bit numbers into a byte.
pub(super) fn int4_needs_an_even_size() -> Rule {
    Rule::new(
        "!has(self.vectorIndexOptions) || !self.vectorIndexOptions.type.startsWith('int4') || \
         self.vectorSize % 2 == 0",
    )
    .field_path(".vectorSize")
    .message(with_values(
        "spec.destination.index.vectorSize is %s, and vectorIndexOptions.type \"%s\" needs an even \
         number; choose another type, for instance int8_hnsw",
        &["self.vectorSize", "self.vectorIndexOptions.type"],
    ))
}

/// Elasticsearch refuses binary quantisation of short vectors.
pub(super) fn bbq_needs_a_long_vector() -> Rule {
    Rule::new(
        "!has(self.vectorIndexOptions) || !self.vectorIndexOptions.type.startsWith('bbq') || \
         self.vectorSize >= 64",
    )
    .field_path(".vectorSize")
    .message(with_values(
        "spec.destination.index.vectorSize is %s, and vectorIndexOptions.type \"%s\" needs at least \
         64; choose another type, for instance int8_hnsw",
        &["self.vectorSize", "self.vectorIndexOptions.type"],
    ))
}

/// `m` and `efConstruction` describe a graph, and the flat types have none.
pub(super) fn graph_options_need_a_graph() -> Rule {
    Rule::new("self.type.endsWith('hnsw') || (!has(self.m) && !has(self.efConstruction))").message(
        with_values(
            "spec.destination.index.vectorIndexOptions: type \"%s\" has no graph, so m and efConstruction \
         mean nothing; remove them, or choose a type that ends in hnsw",
            &["self.type"],
        ),
    )
}

/// `pg_` is Postgres' own.
pub(super) fn schema_is_not_reserved() -> Rule {
    Rule::new("!self.startsWith('pg_') && self != 'information_schema'").message(with_values(
        "spec.state.schema \"%s\" is reserved by Postgres; choose another name, for instance \
         \"es_index_merge\"",
        &["self"],
    ))
}

/// A number of bytes between two bounds (quantities as in `resources`, such as `64Mi`).
pub(super) fn bytes_between(path: &str, min: &str, max: &str) -> Rule {
    Rule::new(format!(
        "isQuantity(self) && quantity(self).compareTo(quantity('{min}')) >= 0 && \
         quantity(self).compareTo(quantity('{max}')) <= 0"
    ))
    .message(with_values(
        &format!("{path} is \"%s\"; it must be an amount of bytes from {min} to {max}, for instance 64Mi"),
        &["self"],
    ))
}

/// A duration between two bounds.
pub(super) fn duration_between(path: &str, min: &str, max: &str) -> Rule {
    Rule::new(format!("duration(self) >= duration('{min}') && duration(self) <= duration('{max}')")).message(
        with_values(
            &format!("{path} is \"%s\"; it must be a time from {min} to {max}, for instance 30s or 5m"),
            &["self"],
        ),
    )
}
