//! What a browser gets instead of a page: the same code, cause and hint that a
//! program gets, in the shape of a page.

use askama::Template;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::Response;

use super::action::Command;
use super::frame::Frame;
use super::rendered;
use crate::api::error::Told;
use crate::codes;

#[derive(Template)]
#[template(path = "error.html", config = "src/api/pages/askama.toml")]
struct ErrorPage<'a> {
    frame: Frame,
    status: u16,
    told: &'a Told,
    explained: Option<&'static codes::Entry>,
}

/// The same answer as a page, where it tells of an error; its headers stay.
pub(in crate::api) fn in_place_of(answer: Response) -> Response {
    let Some(told) = answer.extensions().get::<Told>().cloned() else {
        return answer;
    };
    let explain = Command::new("explain").about(told.code);
    let page = ErrorPage {
        frame: Frame::bare(told.message.clone()).command(explain),
        status: answer.status().as_u16(),
        explained: codes::find(told.code).map(|(_, entry)| entry),
        told: &told,
    };
    let mut response = rendered(answer.status(), &page);
    let headers = answer.headers().iter();
    for (name, value) in headers.filter(|(name, _)| ![CONTENT_TYPE, CONTENT_LENGTH].contains(name))
    {
        response.headers_mut().insert(name, value.clone());
    }
    response
}
