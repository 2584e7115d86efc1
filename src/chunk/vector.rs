//! Embeddings: read in each form that servers give them, written in each form that they take.
//!
//! Invariants: an embedding has exactly the wanted number of finite elements and a direction (a
//! cosine needs one), or it is refused; the same numbers give the same `f32` bits whatever form
//! they came in; text that may be passed on is passed on untouched.
//! Failure: a [`Refusal`] of class `Vector`. The chunk is never indexed without.

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};

use super::{
    float,
    refusal::{Refusal, RefusalClass},
    scan::{Scanner, Value},
    text::Text,
};

/// Standard alphabet; clients differ in whether they write the padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// In what form an embedding is written. Decided by the lane of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VectorForm {
    /// A list of decimal numbers: every server takes it.
    Json,
    /// Base64 of big-endian `f32`: only servers from 9.3, and only where `_source` drops vectors.
    Base64,
}

impl VectorForm {
    /// For the status and for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Base64 => "base64",
        }
    }
}

/// A checked embedding.
#[derive(Debug)]
pub(super) struct Vector<'a> {
    pub values: Vec<f32>,
    /// As it came.
    given: Given<'a>,
    /// Sum of the squares, in double precision.
    squared_length: f64,
}

#[derive(Debug)]
enum Given<'a> {
    /// The brackets and all between them.
    List(&'a str),
    /// Standard base64 of big-endian `f32`, padded: what the base64 lane writes.
    Base64(&'a str),
    /// Hexadecimal, `bf16`, unpadded: a form to read but not to pass on.
    Other,
}

/// An embedding as a server gives it back, not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Written<'a> {
    /// A value in `_source`.
    InSource(Value<'a>),
    /// Doc values.
    Encoded(&'a str),
}

impl<'a> Written<'a> {
    /// Reads it.
    pub(super) fn read(self, size: usize) -> Result<Vector<'a>, Refusal> {
        match self {
            Self::InSource(Value::List(raw)) => Vector::read_list(&mut Scanner::new(raw), size),
            Self::InSource(Value::Text(text)) => Vector::read_string(text, size),
            Self::InSource(_) => Err(refuse("the embedding is neither a list nor a string")),
            Self::Encoded(text) => Vector::read_encoded(text, size),
        }
    }
}

fn refuse(reason: impl Into<String>) -> Refusal {
    Refusal::new(RefusalClass::Vector, reason)
}

impl<'a> Vector<'a> {
    /// The list that begins at the scanner's position, which is moved behind it.
    pub(super) fn read_list(scanner: &mut Scanner<'a>, size: usize) -> Result<Self, Refusal> {
        let (start, bytes) = (scanner.at, scanner.bytes());
        let mut values = Vec::with_capacity(size);
        let mut at = skip_space(bytes, start + 1);
        if bytes.get(at) == Some(&b']') {
            return Err(refuse(format!("the embedding is empty, not of {size} elements")));
        }
        loop {
            let (value, end) = float::read(bytes, at)
                .ok_or_else(|| refuse(format!("element {} of the embedding is no number", values.len())))?;
            if values.len() == size {
                return Err(refuse(format!("the embedding has more than {size} elements")));
            }
            values.push(value);
            at = end;
            // Python writes `, `, everything else `,`.
            if bytes.get(at) != Some(&b',') {
                at = skip_space(bytes, at);
            }
            match bytes.get(at) {
                Some(b',') => at = skip_space(bytes, at + 1),
                Some(b']') => break,
                _ => {
                    return Err(refuse(format!(
                        "no comma behind element {} of the embedding",
                        values.len() - 1
                    )));
                }
            }
        }
        scanner.at = at + 1;
        Self::checked(values, Given::List(scanner.slice(start)), size)
    }

    /// A string in `_source`: what a client sent as base64 (`f32` or `bf16`) or hexadecimal.
    pub(super) fn read_string(text: Text<'a>, size: usize) -> Result<Self, Refusal> {
        match text.decode() {
            Ok(std::borrow::Cow::Borrowed(plain)) => Self::read_encoded(plain, size),
            Ok(std::borrow::Cow::Owned(decoded)) => {
                let Vector { values, squared_length, .. } = Vector::read_encoded(&decoded, size)?;
                Ok(Self { values, squared_length, given: Given::Other })
            }
            Err(_) => Err(refuse("the embedding is a string that is not base64")),
        }
    }

    /// Base64 from doc values, or as [`Vector::read_string`]. The lengths tell the forms apart.
    pub(super) fn read_encoded(text: &'a str, size: usize) -> Result<Self, Refusal> {
        if text.len() == size * 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let values = text.as_bytes().chunks_exact(8).filter_map(|digits| {
                let digits = std::str::from_utf8(digits).ok()?;
                u32::from_str_radix(digits, 16).ok().map(f32::from_bits)
            });
            return Self::checked(values.collect(), Given::Other, size);
        }
        if let Some(values) = decode_padded(text, size) {
            return Self::checked(values, Given::Base64(text), size);
        }
        // Bounds the allocation by what is wanted, not by what came.
        if text.len() > (size * 4).div_ceil(3) * 4 {
            return Err(refuse(format!("the encoded embedding is longer than {size} elements")));
        }
        let bytes =
            LENIENT.decode(text).map_err(|_| refuse("the embedding is a string that is not base64"))?;
        if bytes.len() == size * 2 && size > 0 {
            let values = bytes.chunks_exact(2).map(|half| {
                f32::from_bits(u32::from(u16::from_be_bytes(half.try_into().unwrap_or_default())) << 16)
            });
            return Self::checked(values.collect(), Given::Other, size);
        }
        if bytes.len() != size * 4 {
            return Err(refuse(format!("the encoded embedding has {} bytes, not {}", bytes.len(), size * 4)));
        }
        let values = bytes
            .chunks_exact(4)
            .map(|four| f32::from_be_bytes(four.try_into().unwrap_or_default()))
            .collect();
        let is_padded = text.len().is_multiple_of(4);
        Self::checked(values, if is_padded { Given::Base64(text) } else { Given::Other }, size)
    }

    /// Whether that is this vector in the very same text. If not, its numbers may still be the same.
    pub(super) fn is_written_as(&self, found: &Written<'_>) -> bool {
        match (&self.given, found) {
            (Given::List(mine), Written::InSource(Value::List(theirs)))
            | (Given::Base64(mine), Written::Encoded(theirs)) => mine == theirs,
            _ => false,
        }
    }

    fn checked(values: Vec<f32>, given: Given<'a>, size: usize) -> Result<Self, Refusal> {
        if values.len() != size {
            return Err(refuse(format!("the embedding has {} elements, not {size}", values.len())));
        }
        let squared_length = squared_length(&values);
        if !squared_length.is_finite() {
            let at = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
            return Err(refuse(format!("element {at} of the embedding is not finite")));
        }
        // The server sums in single precision: too long a vector has an infinite length there.
        if squared_length > f64::from(f32::MAX) * 0.999 {
            return Err(refuse("the embedding is too long: its squared length is not finite"));
        }
        let vanishes = squared_length < 1e-36 && values.iter().map(|value| value * value).sum::<f32>() == 0.0;
        if vanishes {
            return Err(refuse("the embedding has zero magnitude, so no direction"));
        }
        Ok(Self { values, given, squared_length })
    }

    /// Appends the embedding as a JSON value on one line.
    pub(super) fn write(&self, form: VectorForm, out: &mut Vec<u8>) {
        match (form, &self.given) {
            (VectorForm::Json, Given::List(raw)) => write_on_one_line(raw, out),
            (VectorForm::Json, _) => write_decimals(&self.values, out),
            (VectorForm::Base64, Given::Base64(text)) => {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
            (VectorForm::Base64, _) => write_base64(&self.values, out),
        }
    }

    /// Whether `read` is what a server gives back that was given this vector.
    ///
    /// A vector of unit length comes back bit by bit. Any other was divided by its length and
    /// multiplied again, which moves an element by a unit or two in the last place.
    pub(super) fn first_difference(&self, read: &Vector<'_>) -> Option<usize> {
        // A little inside the server's own bound of 1e-3, which it computes in single precision.
        let is_unit = (self.squared_length - 1.0).abs() < 1e-3 - 1e-6;
        let smallest_step = self.squared_length.sqrt() * f64::from(f32::from_bits(2));
        let differs = |index: usize, wanted: f32, found: f32| {
            // An integer `-0` has no sign for a server.
            let is_zero = wanted.abs().to_bits() | found.abs().to_bits() == 0;
            if wanted.to_bits() == found.to_bits() || is_zero {
                return false;
            }
            let is_near = !is_unit
                && (steps_between(wanted, found) <= 2
                    || (f64::from(wanted) - f64::from(found)).abs() <= smallest_step);
            !is_near && !self.is_twice_rounded(index, found)
        };
        let pairs = self.values.iter().zip(&read.values).enumerate();
        pairs
            .into_iter()
            .find(|(index, (wanted, found))| differs(*index, **wanted, **found))
            .map(|(index, _)| index)
    }

    /// Some servers read a decimal as a double first, and round that: about one element in a
    /// thousand million then differs from the nearest `f32`, and it is what the source holds, too.
    fn is_twice_rounded(&self, index: usize, found: f32) -> bool {
        let Given::List(raw) = self.given else { return false };
        let Some(element) = raw[1..raw.len() - 1].split(',').nth(index) else { return false };
        #[allow(clippy::cast_possible_truncation)]
        element.trim().parse::<f64>().is_ok_and(|double| (double as f32).to_bits() == found.to_bits())
    }
}

fn skip_space(bytes: &[u8], at: usize) -> usize {
    let is_space = |byte: &&u8| matches!(**byte, b' ' | b'\n' | b'\r' | b'\t');
    at + bytes[at.min(bytes.len())..].iter().take_while(is_space).count()
}

/// Eight sums at once, so that one addition need not wait for the one before.
fn squared_length(values: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let (eights, rest) = values.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for eight in eights {
        for (sum, value) in sums.iter_mut().zip(eight) {
            *sum += square(*value);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().copied().map(square).sum::<f64>()
}

/// The usual form, fast: padded base64 of exactly `size` big-endian `f32`. `None`: look closer.
fn decode_padded(text: &str, size: usize) -> Option<Vec<f32>> {
    // Of whole quanta, and of whole floats.
    const PIECE: usize = 4096;
    if size == 0 || text.len() != (size * 4).div_ceil(3) * 4 {
        return None;
    }
    let mut values = Vec::with_capacity(size);
    let mut bytes = [0_u8; PIECE / 4 * 3];
    for piece in text.as_bytes().chunks(PIECE) {
        let decoded = base64_simd::STANDARD.decode(piece, base64_simd::Out::from_slice(&mut bytes)).ok()?;
        let (fours, rest) = decoded.as_chunks::<4>();
        if !rest.is_empty() {
            return None;
        }
        values.extend(fours.iter().map(|four| f32::from_be_bytes(*four)));
    }
    (values.len() == size).then_some(values)
}

/// How many floats lie between two of the same sign, and one more.
fn steps_between(a: f32, b: f32) -> u32 {
    if a.is_sign_negative() == b.is_sign_negative() { a.to_bits().abs_diff(b.to_bits()) } else { u32::MAX }
}

/// A list may have been stored on several lines; a bulk body's documents may not.
fn write_on_one_line(list: &str, out: &mut Vec<u8>) {
    if memchr::memchr2(b'\n', b'\r', list.as_bytes()).is_some() {
        out.extend(list.bytes().filter(|byte| !byte.is_ascii_whitespace()));
    } else {
        out.extend_from_slice(list.as_bytes());
    }
}

/// The shortest decimals that read back to the same bits.
fn write_decimals(values: &[f32], out: &mut Vec<u8>) {
    let mut buffer = ryu::Buffer::new();
    let mut separator = b'[';
    for value in values {
        out.push(separator);
        out.extend_from_slice(buffer.format_finite(*value).as_bytes());
        separator = b',';
    }
    out.push(b']');
}

fn write_base64(values: &[f32], out: &mut Vec<u8>) {
    // A multiple of three floats is a multiple of three bytes: only the last piece has padding.
    const PIECE: usize = 384;
    let mut bytes = [0_u8; PIECE * 4];
    let mut characters = [0_u8; PIECE * 4 / 3 * 4];
    out.push(b'"');
    for piece in values.chunks(PIECE) {
        for (four, value) in bytes.chunks_exact_mut(4).zip(piece) {
            four.copy_from_slice(&value.to_be_bytes());
        }
        // The buffer has room for a whole piece, so this cannot fail.
        let written = STANDARD.encode_slice(&bytes[..piece.len() * 4], &mut characters).unwrap_or_default();
        out.extend_from_slice(&characters[..written]);
    }
    out.push(b'"');
}
