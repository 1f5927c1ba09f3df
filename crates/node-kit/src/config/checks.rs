//! Checks of single values that several processes need.

use std::fmt::Display;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;

use super::Invalid;

/// Checks that `value` is `host:port`, with brackets around the host if it is an IPv6 address.
pub fn check_address(field: &str, value: &str) -> Result<(), Invalid> {
    let refuse = |allowed: &str| Err(Invalid::new(field, value, allowed));
    let Some((host, port)) = value.rsplit_once(':') else { return refuse("host:port") };
    if let Some(host) = host.strip_prefix('[') {
        let address = host.strip_suffix(']').and_then(|host| host.parse::<Ipv6Addr>().ok());
        if address.is_none() {
            return refuse("host:port, or [IPv6 address]:port");
        }
    } else if host.contains(':') {
        return refuse("host:port; put IPv6 addresses in brackets, as in [fd00::1]:7001");
    }
    if host.is_empty() || host.contains(char::is_whitespace) || port.parse::<u16>().is_err() {
        return refuse("host:port");
    }
    Ok(())
}

/// Checks that there is at least one address and that each is `host:port`.
pub fn check_addresses(field: &str, values: &[String]) -> Result<(), Invalid> {
    if values.is_empty() {
        return Err(Invalid::new(field, "[]", "one host:port or more"));
    }
    values.iter().try_for_each(|value| check_address(field, value))
}

/// Checks that `value` lies in `allowed`.
pub fn check_range<N: PartialOrd + Display>(
    field: &str,
    value: N,
    allowed: RangeInclusive<N>,
) -> Result<(), Invalid> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Invalid::new(field, value, format!("{} to {}", allowed.start(), allowed.end())))
}

/// Checks the name of a process: it becomes part of file names and metric labels.
pub fn check_name(field: &str, value: &str) -> Result<(), Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=63).contains(&value.len()) && value.chars().all(allowed) {
        return Ok(());
    }
    Err(Invalid::new(field, value, "1 to 63 letters, digits, '-', '_' or '.'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_file_names_are_refused() {
        assert!(check_name("name", "storage-1").is_ok());
        assert!(check_name("name", "a/b").is_err());
        assert!(check_name("name", "").is_err());
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["a:1", "127.0.0.1:0", "[::1]:7001", "[::]:65535", "a-0.b.svc:7001"] {
            assert_eq!(check_address("x", good), Ok(()), "{good}");
        }
        for bad in
            ["a", ":1", "a:", "a:65536", "a:-1", "a b:1", "[a]:1", "[::1]", "[::1:7001", "", "[]:1"]
        {
            assert!(check_address("x", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_ipv6_address_without_brackets_is_told_to_have_them() {
        let error = check_address("grpc_advertise", "fd00::1:7001").unwrap_err();
        assert!(error.allowed.contains("put IPv6 addresses in brackets"), "{error}");
    }
}
