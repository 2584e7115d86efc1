//! The CEL rules of the definition.
//!
//! Each message names the field, what is wrong with its value and what to do. A URL is never repeated in a
//! message: it may hold a password by mistake, and the API server's answers end up in logs.
//!
//! What the engine refuses as well, without an API server, has its words in `words`.

use std::sync::LazyLock;

use kube::core::{Message, Rule};
use regex::Regex;

use super::words::{self, Bounds};

/// One number of an address of version 4.
const BYTE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";

/// A name of a host. One that ends in a number would be taken for an address.
const NAME: &str = "([A-Za-z0-9_-]+[.])*[A-Za-z0-9_-]*[A-Za-z_-][A-Za-z0-9_-]*[.]?";

/// 1 to 65535.
const PORT: &str = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// One node's URL, as a regular expression.
fn node() -> String {
    let version_6 = r"\[[0-9A-Fa-f:.]+\]";
    let host = format!("({NAME}|({BYTE}[.]){{3}}{BYTE}|{version_6})");
    format!(r"https?://{host}(:{PORT})?(/[^?#,\s]*)?")
}

/// Whether that is one node, of several that are separated by commas.
pub(crate) fn is_node_url(text: &str) -> bool {
    static NODE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("^{}$", node())).ok());
    NODE.as_ref().is_none_or(|node| node.is_match(text))
}

/// A regular expression as it stands in a CEL text.
fn in_cel(pattern: &str) -> String {
    pattern.replace('\\', r"\\")
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

/// The words about the field at `path`, with the values of CEL expressions.
fn in_field(path: &str, words: &str, values: &[&str]) -> Message {
    with_values(&format!("{path} {words}"), values)
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

/// Where the collections are listed is part of what the merge is. How that server is verified may change.
pub(super) fn immutable_database() -> Rule {
    Rule::new("self.postgres.urlSecretRef == oldSelf.postgres.urlSecretRef")
        .field_path(".postgres.urlSecretRef")
        .message(
            format!(
                "spec.collections.postgres.urlSecretRef cannot be changed: it says which merge this is; {REMEDY}"
            )
            .as_str(),
        )
}

/// No user name and no password in the URLs of the field at `path`.
pub(super) fn url_without_credentials(path: &str) -> Rule {
    Rule::new("!self.contains('@')").message(format!("{path} {}", words::URL_WITH_CREDENTIALS).as_str())
}

/// One `http(s)://host[:port][/path]`, or several separated by commas.
pub(super) fn url_form(path: &str) -> Rule {
    let node = in_cel(&node());
    Rule::new(format!("self.contains('@') || self.matches('^{node}( *, *{node})*$')"))
        .message(format!("{path} {}", words::URL_FORM).as_str())
}

/// Verification is either done against a given authority or not done at all.
pub(super) fn ca_or_insecure(path: &str) -> Rule {
    Rule::new("!(has(self.caSecretRef) && has(self.insecureSkipVerify) && self.insecureSkipVerify)")
        .message(format!("{path}: {}", words::CA_OR_INSECURE).as_str())
}

/// The names Elasticsearch allows for a new index or alias of so many bytes; `value` is a CEL expression of a string.
fn index_name_is_valid(value: &str, bytes: usize) -> String {
    format!(
        "({value} == {value}.lowerAscii() && !{value}.matches('^[-_+.]') && \
         !{value}.matches('[\\\\\\\\/*?\"<>|,#:\\\\s]') && size(bytes({value})) <= {bytes})"
    )
}

/// The name of the destination follows the rules of Elasticsearch.
pub(super) fn index_name() -> Rule {
    Rule::new(index_name_is_valid("self", words::INDEX_NAME_BYTES)).message(in_field(
        "spec.destination.index.name",
        words::INDEX_NAME,
        &["self"],
    ))
}

/// The destination cannot be taken for a source.
pub(super) fn index_name_is_no_number() -> Rule {
    Rule::new("!self.matches('^[0-9]+$')").message(in_field(
        "spec.destination.index.name",
        words::INDEX_IS_A_NUMBER,
        &["self"],
    ))
}

/// Each alias follows the rules of Elasticsearch.
pub(super) fn alias_names() -> Rule {
    Rule::new(format!("self.all(a, {})", index_name_is_valid("a", words::ALIAS_BYTES)))
        .message(format!("spec.cutover.aliases: {}", words::ALIAS_NAME).as_str())
}

/// No alias can be taken for a source.
pub(super) fn aliases_are_no_numbers() -> Rule {
    Rule::new("!self.exists(a, a.matches('^[0-9]+$'))").message(in_field(
        "spec.cutover.aliases",
        words::ALIAS_IS_A_NUMBER,
        &["self.filter(a, a.matches('^[0-9]+$'))[0]"],
    ))
}

/// Whether there are aliases.
const ALIASES: &str = "has(self.cutover) && has(self.cutover.aliases)";

/// An alias cannot have the name of an index.
pub(super) fn alias_is_not_the_index() -> Rule {
    Rule::new(format!("!({ALIASES} && self.destination.index.name in self.cutover.aliases)"))
        .field_path(".cutover.aliases")
        .message(in_field(
            "spec.cutover.aliases",
            words::ALIAS_IS_THE_INDEX,
            &["self.destination.index.name"],
        ))
}

/// The alias through which workers write is removed at the verdict.
pub(super) fn alias_is_not_that_of_the_writers() -> Rule {
    let writers = format!("self.destination.index.name + '{}'", words::WRITER_SUFFIX);
    Rule::new(format!("!({ALIASES} && ({writers}) in self.cutover.aliases)"))
        .field_path(".cutover.aliases")
        .message(in_field("spec.cutover.aliases", words::ALIAS_OF_THE_WRITERS, &[&writers]))
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
        .message(in_field(
            "spec.cutover.deleteSources",
            words::DELETION_OF_WHAT_IS_WRITTEN_TO,
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
    .message(in_field(
        "spec.cutover.deleteSources",
        words::DELETION_OF_WHAT_WAS_COUNTED,
        &["self.cutover.deleteSources", "self.verification.mode"],
    ))
}

/// One of the two, sources or destination, stays.
pub(super) fn one_copy_stays() -> Rule {
    let deletes = deletes_sources("self.cutover");
    Rule::new(format!(
        "!has(self.deletionPolicy) || self.deletionPolicy != 'DeleteDestination' || !has(self.cutover) || !{deletes}"
    ))
    .field_path(".deletionPolicy")
    .message(in_field(
        "spec.deletionPolicy",
        words::DELETION_OF_BOTH,
        &["self.deletionPolicy", "self.cutover.deleteSources"],
    ))
}

/// A collection is not at once included and excluded.
pub(super) fn include_and_exclude_are_disjoint() -> Rule {
    Rule::new("!has(self.include) || !has(self.exclude) || !self.include.exists(i, i in self.exclude)")
        .field_path(".exclude")
        .message(with_values(
            &format!("spec.collections.exclude: {}", words::IN_BOTH_LISTS),
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
    .message(in_field(
        "spec.destination.index.vectorSize",
        words::INT4_OF_AN_ODD_SIZE,
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
    .message(in_field(
        "spec.destination.index.vectorSize",
        words::BBQ_OF_A_SHORT_VECTOR,
        &["self.vectorSize", "self.vectorIndexOptions.type"],
    ))
}

/// `m` and `efConstruction` describe a graph, and the flat types have none.
pub(super) fn graph_options_need_a_graph() -> Rule {
    Rule::new("self.type.endsWith('hnsw') || (!has(self.m) && !has(self.efConstruction))").message(in_field(
        "spec.destination.index.vectorIndexOptions:",
        words::GRAPH_OPTIONS_WITHOUT_A_GRAPH,
        &["self.type"],
    ))
}

/// `pg_` is Postgres' own.
pub(super) fn schema_is_not_reserved() -> Rule {
    Rule::new("!self.startsWith('pg_') && self != 'information_schema'").message(in_field(
        "spec.state.schema",
        words::SCHEMA_IS_RESERVED,
        &["self"],
    ))
}

/// A number of bytes between two bounds (quantities as in `resources`, such as `64Mi`).
pub(super) fn bytes_between((min, max): Bounds, path: &str) -> Rule {
    Rule::new(format!(
        "isQuantity(self) && quantity(self).compareTo(quantity('{min}')) >= 0 && \
         quantity(self).compareTo(quantity('{max}')) <= 0"
    ))
    .message(in_field(path, &words::bytes_outside((min, max)), &["self"]))
}

/// A duration between two bounds.
pub(super) fn duration_between((min, max): Bounds, path: &str) -> Rule {
    Rule::new(format!("duration(self) >= duration('{min}') && duration(self) <= duration('{max}')"))
        .message(in_field(path, &words::duration_outside((min, max)), &["self"]))
}
