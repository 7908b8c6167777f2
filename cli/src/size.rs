//! Sizes as people write them on a command line: `512M`, `1.5G`, `20GiB`.
//!
//! Units are binary. A bare number is refused: whether 512 means bytes or MiB differs from tool to
//! tool, and a wrong guess is off by a million. So are `KB`, `MB`, `GB`, for the same reason.

use ostler_protocol::rpc::values::Bytes;

/// What was wrong with a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// No number, or not one.
    #[error("give a number and a unit, as in 512M or 1.5G")]
    Number,
    /// No unit.
    #[error("say which unit, as in {0}M or {0}G")]
    NoUnit(String),
    /// A unit with two meanings, or none.
    #[error("the unit is one of B, K, M, G, T (or KiB, MiB, GiB, TiB), in powers of 1024")]
    Unit,
    /// Zero, or beyond 64 bits.
    #[error("the size must be more than 0 and less than 16 EiB")]
    Range,
    /// A fraction of a byte.
    #[error("that is not a whole number of bytes")]
    Fraction,
}

/// Read a size.
pub(crate) fn parse(text: &str) -> Result<Bytes, SizeError> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Twelve digits after the point are beyond any unit here, and keep the product in 128 bits.
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 20 || fraction.len() > 12 || !digits(fraction) {
        return Err(SizeError::Number);
    }
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" => return Err(SizeError::NoUnit(number.to_owned())),
        "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(SizeError::Unit),
    };
    let scale = 10u128.pow(fraction.len() as u32);
    let scaled: u128 = format!("{whole}{fraction}").parse().map_err(|_| SizeError::Number)?;
    let product = scaled.checked_mul(1 << shift).ok_or(SizeError::Range)?;
    if !product.is_multiple_of(scale) {
        return Err(SizeError::Fraction);
    }
    match u64::try_from(product / scale) {
        Ok(bytes) if bytes > 0 => Ok(Bytes(bytes)),
        Ok(_) | Err(_) => Err(SizeError::Range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("512MiB", 512 << 20),
            ("1.5G", 1536 << 20),
            ("0.25K", 256),
            ("2 G", 2 << 30),
            ("1T", 1 << 40),
            ("4096B", 4096),
        ] {
            assert_eq!(parse(text), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn a_size_that_could_be_misread_is_refused() {
        for (text, error) in [
            ("512", SizeError::NoUnit("512".into())),
            ("512MB", SizeError::Unit),
            ("5x", SizeError::Unit),
            ("", SizeError::Number),
            ("M", SizeError::Number),
            ("-5M", SizeError::Number),
            ("1.2.3G", SizeError::Number),
            ("0G", SizeError::Range),
            ("99999999999T", SizeError::Range),
            ("99999999999999999999T", SizeError::Range),
            ("1.5B", SizeError::Fraction),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
