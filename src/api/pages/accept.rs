//! Whether who asks wants a page: browsers say `text/html`, programs do not.
//!
//! Source: RFC 9110, section 12.5.1.

use axum::http::{HeaderMap, header};

/// Whether a page is named and preferred to what programs get. `*/*` names
/// none.
pub(in crate::api) fn wants_page(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter();
    let accepts: Vec<&str> = accepts.filter_map(|value| value.to_str().ok()).collect();
    let (mut page, mut json) = (0_u16, 0_u16);
    for range in accepts.iter().flat_map(|accept| accept.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let weight = |parts: std::str::Split<'_, char>| {
            let mut parts = parts.map(str::trim);
            let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            q.map_or(1000, thousandths)
        };
        let wanted = weight(range.split(';'));
        match parts
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase()
            .as_str()
        {
            "text/html" | "application/xhtml+xml" => page = page.max(wanted),
            "application/json" => json = json.max(wanted),
            _ => {}
        }
    }
    page > 0 && page >= json
}

/// A weight such as `0.85`; what is none weighs nothing.
fn thousandths(q: &str) -> u16 {
    let weight: f32 = q.parse().unwrap_or(0.0);
    // From 0 to 1000: nothing is lost.
    (weight.clamp(0.0, 1.0) * 1000.0).round() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_pages_and_programs_do_not() {
        for (accept, page) in [
            (
                "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
                true,
            ),
            ("text/html", true),
            ("TEXT/HTML; q=0.5", true),
            ("application/json, text/html", true),
            ("application/json, text/html;q=0.9", false),
            ("text/html;q=0", false),
            ("text/html;q=x", false),
            ("*/*", false),
            ("text/*", false),
            ("application/json", false),
            ("text/event-stream", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wants_page(&headers), page, "{accept}");
        }
        assert!(!wants_page(&HeaderMap::new()));
    }
}
