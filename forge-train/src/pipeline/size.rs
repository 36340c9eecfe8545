//! Sizes as people write them: `6GB`, `512MiB`, `1.5 GB`, `800000000`.

/// Bytes of a size with a unit; decimal units (`kB`, `MB`, `GB`) are powers of 1000, binary ones (`KiB`, `MiB`, `GiB`) of
/// 1024, and none means bytes.
///
/// # Errors
/// A message naming what is expected.
pub fn parse_size(text: &str) -> std::result::Result<u64, String> {
    let wrong = || format!("`{text}` is not a size; write for example 6GB, 512MiB or a number of bytes");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024f64.powi(2),
        "gib" => 1024f64.powi(3),
        "tib" => 1024f64.powi(4),
        _ => return Err(wrong()),
    };
    let bytes = number.trim().parse::<f64>().map_err(|_| wrong())? * factor;
    if (1.0..1e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn units_are_decimal_or_binary() {
        for (text, bytes) in [
            ("6GB", 6_000_000_000),
            ("6 gb", 6_000_000_000),
            ("512MiB", 512 << 20),
            ("1.5KiB", 1536),
            ("800000", 800_000),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "GB", "-1GB", "6XB", "nanGB", "infGB", "0", "1e30GB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
