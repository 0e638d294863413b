//! Errors of the API server and of the way there, in words for operators.

use std::error::Error as _;

/// What went wrong, in one line.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => format!(
                "the API server did not accept our credentials: {}",
                status.message
            ),
            403 => format!("the API server did not allow it: {}", status.message),
            0 => format!("the API server said: {}", status.message),
            code => format!("the API server answered {code}: {}", status.message),
        },
        kube::Error::SerdeError(error) => {
            format!("the API server's answer cannot be read: {error}")
        }
        kube::Error::Service(error) => {
            // The outermost texts only say that there was an error; the innermost says which.
            let mut deepest: &dyn std::error::Error = error.as_ref();
            while let Some(source) = deepest.source() {
                deepest = source;
            }
            format!("the API server cannot be reached: {deepest}")
        }
        other => {
            let mut deepest: &dyn std::error::Error = other;
            while let Some(source) = deepest.source() {
                deepest = source;
            }
            match other.source() {
                Some(_) => format!("the API server: {deepest}"),
                None => other.to_string(),
            }
        }
    }
}

/// Whether the server could not be reached at all, so that it may come back as another one.
pub(crate) fn is_unreachable(error: &kube::Error) -> bool {
    matches!(
        error,
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::Auth(_)
    )
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn refusals_say_what_the_server_said() {
        let api = |code, message: &str| {
            let status = Status {
                code,
                message: message.into(),
                ..Status::default()
            };
            words(&kube::Error::Api(Box::new(status)))
        };
        let table = [
            (
                api(401, "Unauthorized"),
                "the API server did not accept our credentials: Unauthorized",
            ),
            (
                api(403, "pods is forbidden"),
                "the API server did not allow it: pods is forbidden",
            ),
            (api(500, "etcd"), "the API server answered 500: etcd"),
            (api(0, "odd"), "the API server said: odd"),
        ];
        for (text, expected) in table {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn the_innermost_reason_is_told() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
        let error = kube::Error::Service(Box::new(refused));
        assert_eq!(words(&error), "the API server cannot be reached: refused");
        assert!(is_unreachable(&error));
    }
}
