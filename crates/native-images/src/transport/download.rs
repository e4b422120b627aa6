//! One file over as many connections as it takes: checks what servers claim, retries what may pass, resumes where a
//! connection broke.

use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;
use bytes::Bytes;
use reqwest::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use tokio::time::timeout;
use url::Url;

use super::client::{Answer, Client};
use super::error::{FetchError, Sent, Stage};
use super::headers::{Validators, content_range, header_sums, insert, retry_after};
use crate::digest::Digests;
use crate::events::{Event, Events};
use crate::image::{Algo, Checksum};

/// What the first answer was.
pub(crate) enum Started {
    /// The file has not changed since the validators that were given.
    NotModified,
    /// Here it comes.
    Body,
}

/// What is fixed for one download.
pub(crate) struct Job<'a> {
    pub(crate) client: &'a Client,
    pub(crate) url: &'a Url,
    pub(crate) image: &'a str,
    pub(crate) events: &'a Events,
    pub(crate) sum: Option<&'a Checksum>,
}

/// A file that is coming.
pub(crate) struct Download<'a> {
    job: Job<'a>,
    response: Option<Response>,
    digests: Digests,
    /// Bytes handed out.
    offset: u64,
    /// Bytes that a server sends again from the start, and their digest so far.
    again: Option<(u64, Digests)>,
    pub(crate) validators: Validators,
    pub(crate) header_sums: Vec<Checksum>,
    tries: Tries,
    deadline: Instant,
    /// Bytes and time waited for them in the present window.
    window: (u64, Duration),
}

struct Tries {
    failed: usize,
    pauses: backon::ExponentialBackoff,
}

/// A failure, and whether it may pass.
struct Failure {
    error: FetchError,
    passing: bool,
    retry_after: Option<Duration>,
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let passing = match &error {
            FetchError::Connection { source } => !distrusted(source),
            FetchError::Timeout { stage, .. } => *stage != Stage::Everything,
            FetchError::Cut { .. } => true,
            FetchError::Status { status } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        };
        Self { error, passing, retry_after: None }
    }
}

impl FetchError {
    /// Whether the server could not be reached or is out of order, rather than having said no.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Connection { source } => !distrusted(source),
            Self::Timeout { .. } | Self::Stalled { .. } => true,
            Self::Status { status } => matches!(status, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

/// A certificate that is not trusted, or a server that knows only old protocols, does not become better by trying again.
fn distrusted(error: &reqwest::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        let text = error.to_string();
        if ["certificate", "peer is incompatible", "ProtocolVersion"].iter().any(|sign| text.contains(sign)) {
            return true;
        }
        source = error.source();
    }
    false
}

impl<'a> Download<'a> {
    pub(crate) fn new(job: Job<'a>) -> Self {
        let limits = &job.client.policy.limits;
        let tries = Tries::new(limits.pause);
        Self {
            deadline: Instant::now() + limits.total,
            digests: Digests::new(job.sum.map(|sum| sum.algo)),
            job,
            response: None,
            offset: 0,
            again: None,
            validators: Validators::default(),
            header_sums: Vec::new(),
            tries,
            window: (0, Duration::ZERO),
        }
    }

    /// Sends the first request. With `known`, asks only for a file that changed since.
    pub(crate) async fn start(&mut self, known: Option<&Validators>) -> Result<Started, FetchError> {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            insert(&mut headers, IF_NONE_MATCH, known.etag.as_deref());
            insert(&mut headers, IF_MODIFIED_SINCE, known.last_modified.as_deref());
        }
        loop {
            match self.first(&headers, known.is_some()).await {
                Ok(started) => return Ok(started),
                Err(failure) => self.pause(failure).await?,
            }
        }
    }

    /// Goes on after bytes that an earlier process received; [`Download::replay`] gives them first.
    pub(crate) async fn start_after(&mut self, bytes: u64, validators: Validators) -> Result<(), FetchError> {
        self.validators = validators;
        self.offset = bytes;
        self.limit(bytes)?;
        if self.validators.length == Some(bytes) {
            return Ok(());
        }
        loop {
            match self.resume().await {
                Ok(()) if self.again.is_some() => return Err(FetchError::Changed),
                Ok(()) => return Ok(()),
                Err(failure) => self.pause(failure).await?,
            }
        }
    }

    /// Counts bytes of an earlier process into the digests.
    pub(crate) fn replay(&mut self, bytes: &[u8]) {
        self.digests.update(bytes);
    }

    async fn first(&mut self, headers: &HeaderMap, conditional: bool) -> Result<Started, Failure> {
        let answer = self.ask(headers).await?;
        let response = answer.response;
        match response.status() {
            StatusCode::NOT_MODIFIED if conditional => return Ok(Started::NotModified),
            StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => {}
            StatusCode::PARTIAL_CONTENT => return Err(FetchError::WrongPart.into()),
            _ => return Err(refused(&response, answer.sent)),
        }
        let length = response.content_length();
        if length == Some(0) {
            return Err(FetchError::Empty.into());
        }
        self.limit(length.unwrap_or(0))?;
        self.header_sums = header_sums(response.headers());
        if let Some(wanted) = self.job.sum
            && let Some(header) = crate::digest::find(&self.header_sums, wanted.algo)
            && header != wanted
        {
            let (header, wanted) = (header.clone(), wanted.clone());
            return Err(FetchError::HeaderSum { header, wanted }.into());
        }
        self.digests = Digests::new(self.job.sum.map(|sum| sum.algo).into_iter().chain(self.header_algos()));
        self.validators = Validators::of(response.headers(), length);
        self.response = Some(response);
        Ok(Started::Body)
    }

    fn header_algos(&self) -> Vec<Algo> {
        self.header_sums.iter().map(|sum| sum.algo).collect()
    }

    /// The next bytes; `None` at the end of a complete file.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let failure = match self.receive().await {
                Ok(Some(bytes)) => {
                    let before = self.offset;
                    let Some(bytes) = self.accept(bytes)? else { continue };
                    if before == 0 {
                        self.look_for_page(&bytes)?;
                    }
                    self.tries.failed = 0;
                    return Ok(Some(bytes));
                }
                Ok(None) if self.complete() => return Ok(None),
                Ok(None) => FetchError::Cut { got: self.offset, expected: self.expected() }.into(),
                Err(failure) => failure,
            };
            let mut failure = failure;
            loop {
                self.response = None;
                let reason = failure.error.to_string();
                self.pause(failure).await?;
                match self.resume().await {
                    Ok(()) => {
                        let (image, at) = (self.job.image.to_owned(), self.offset);
                        tracing::info!(image, at, "download resumed");
                        self.job.events.send(Event::Resumed { image, at, reason });
                        break;
                    }
                    Err(again) => failure = again,
                }
            }
        }
    }

    /// Bytes so far.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// All digests of the file, once [`Download::next`] gave `None`.
    pub(crate) fn finish(self) -> Vec<Checksum> {
        self.digests.finish()
    }

    fn complete(&self) -> bool {
        self.again.is_none() && self.validators.length.is_none_or(|length| length == self.offset)
    }

    fn expected(&self) -> String {
        self.validators.length.map_or_else(|| "?".to_owned(), |length| length.to_string())
    }

    fn limit(&self, bytes: u64) -> Result<(), FetchError> {
        let limit = self.job.client.policy.limits.download;
        if bytes > limit { Err(FetchError::TooLarge { limit }) } else { Ok(()) }
    }

    async fn ask(&self, headers: &HeaderMap) -> Result<Answer, Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match timeout(left, self.job.client.get(self.job.url, headers)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(self.out_of_time().into()),
        }
    }

    fn out_of_time(&self) -> FetchError {
        FetchError::Timeout { stage: Stage::Everything, after: self.job.client.policy.limits.total }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Failure> {
        let limits = &self.job.client.policy.limits;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let patience = limits.idle.min(left);
        let Some(response) = self.response.as_mut() else { return Ok(None) };
        let asked = Instant::now();
        let got = match timeout(patience, response.chunk()).await {
            Err(_) if left <= limits.idle => return Err(self.out_of_time().into()),
            Err(_) => return Err(FetchError::Timeout { stage: Stage::Receiving, after: patience }.into()),
            Ok(Err(source)) => return Err(self.broken(source)),
            Ok(Ok(got)) => got,
        };
        // Only the time spent waiting counts: a slow disk of ours is not the server's fault.
        self.window.1 += asked.elapsed();
        self.window.0 += got.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.window.1 >= limits.idle {
            if self.window.0 < limits.min_rate.saturating_mul(limits.idle.as_secs()) {
                return Err(FetchError::Stalled { min_rate: limits.min_rate }.into());
            }
            self.window = (0, Duration::ZERO);
        }
        Ok(got)
    }

    /// A body that broke off: cut, rather than unreachable, when a length was announced.
    fn broken(&self, source: reqwest::Error) -> Failure {
        if self.validators.length.is_some() && !source.is_timeout() {
            return FetchError::Cut { got: self.offset, expected: self.expected() }.into();
        }
        FetchError::Connection { source: source.without_url() }.into()
    }

    /// Counts bytes, or compares them with what came before.
    fn accept(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, FetchError> {
        if let Some((left, digests)) = &mut self.again {
            let part = bytes.split_to(usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len()));
            digests.update(&part);
            *left -= part.len() as u64;
            if *left > 0 {
                return Ok(None);
            }
            let same = digests.clone().finish() == self.digests.clone().finish();
            self.again = None;
            if !same {
                return Err(FetchError::Changed);
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        self.offset += bytes.len() as u64;
        self.limit(self.offset)?;
        self.digests.update(&bytes);
        Ok(Some(bytes))
    }

    /// A login page says 200 as well.
    fn look_for_page(&self, bytes: &Bytes) -> Result<(), FetchError> {
        let start = bytes.trim_ascii_start();
        let start = start[..start.len().min(15)].to_ascii_lowercase();
        if !start.starts_with(b"<") {
            return Ok(());
        }
        let content_type = self
            .response
            .as_ref()
            .and_then(|response| response.headers().get(CONTENT_TYPE)?.to_str().ok())
            .unwrap_or("no content type");
        let page = content_type.contains("html") || start.starts_with(b"<!doctype") || start.starts_with(b"<html");
        if page { Err(FetchError::WebPage { content_type: content_type.chars().take(80).collect() }) } else { Ok(()) }
    }

    async fn resume(&mut self) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        let provable = self.job.sum.is_some() || !self.header_sums.is_empty();
        let if_range = self.validators.if_range();
        if self.offset > 0 && (if_range.is_some() || provable) {
            insert(&mut headers, RANGE, Some(&format!("bytes={}-", self.offset)));
            insert(&mut headers, IF_RANGE, if_range);
        }
        let answer = self.ask(&headers).await?;
        let response = answer.response;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if headers.contains_key(RANGE) => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| content_range(value.to_str().ok()?));
                let (first, length) = range.ok_or(FetchError::WrongPart)?;
                if first != self.offset {
                    return Err(FetchError::WrongPart.into());
                }
                if !self.validators.agree(&Validators::of(response.headers(), length)) {
                    return Err(FetchError::Changed.into());
                }
            }
            StatusCode::PARTIAL_CONTENT => return Err(FetchError::WrongPart.into()),
            // The server knows no ranges, or the file is another one: the bytes will tell.
            StatusCode::OK => {
                let validators = Validators::of(response.headers(), response.content_length());
                if !self.validators.agree(&validators) {
                    return Err(FetchError::Changed.into());
                }
                self.again = (self.offset > 0).then(|| (self.offset, Digests::new(self.digest_algos())));
            }
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(FetchError::Changed.into()),
            _ => return Err(refused(&response, answer.sent)),
        }
        self.response = Some(response);
        Ok(())
    }

    fn digest_algos(&self) -> Vec<Algo> {
        self.job.sum.map(|sum| sum.algo).into_iter().chain(self.header_algos()).collect()
    }

    /// Waits before the next try, or gives the failure back when there is none.
    async fn pause(&mut self, failure: Failure) -> Result<(), FetchError> {
        let limits = &self.job.client.policy.limits;
        self.tries.failed += 1;
        let wait = self.tries.pause(limits.pause);
        let wait = failure.retry_after.unwrap_or(wait);
        let in_time = Instant::now() + wait < self.deadline && wait <= limits.retry_after.max(limits.pause * 256);
        if !failure.passing || self.tries.failed > limits.retries || !in_time {
            return Err(failure.error);
        }
        let event = Event::Retry {
            image: self.job.image.to_owned(),
            attempt: self.tries.failed + 1,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            reason: failure.error.to_string(),
        };
        tracing::info!(image = self.job.image, attempt = self.tries.failed + 1, ?wait, error = %failure.error, "trying again");
        self.job.events.send(event);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

impl Tries {
    fn new(pause: Duration) -> Self {
        let max = Duration::from_secs(30);
        let builder = backon::ExponentialBuilder::default().with_min_delay(pause).with_max_delay(max);
        Self { failed: 0, pauses: builder.without_max_times().with_jitter().build() }
    }

    /// The next wait; the waits start again after progress.
    fn pause(&mut self, pause: Duration) -> Duration {
        if self.failed <= 1 {
            self.pauses = Self::new(pause).pauses;
        }
        self.pauses.next().unwrap_or(pause)
    }
}

fn refused(response: &Response, sent: Sent) -> Failure {
    let status = response.status().as_u16();
    let error = match status {
        401 => FetchError::Unauthorized { status, sent },
        407 => FetchError::Unauthorized { status, sent: Sent::Proxy },
        403 => FetchError::Forbidden,
        404 | 410 => FetchError::NotFound { status },
        204 | 205 => FetchError::Empty,
        _ => FetchError::Status { status },
    };
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    Failure { retry_after, ..Failure::from(error) }
}
