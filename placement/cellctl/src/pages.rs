//! Every page of a list, one after the other.

use cell_client::{ClientError, ListOptions, Page};

/// Of everything.
pub(crate) async fn all<T, F>(page: impl Fn(ListOptions) -> F) -> Result<Vec<T>, ClientError>
where
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    all_of(page, ListOptions::default()).await
}

/// Of what `options` ask for.
pub(crate) async fn all_of<T, F>(
    page: impl Fn(ListOptions) -> F,
    mut options: ListOptions,
) -> Result<Vec<T>, ClientError>
where
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    let mut items = Vec::new();
    loop {
        let part = page(options.clone()).await?;
        items.extend(part.items);
        if part.next_page_token.is_empty() {
            return Ok(items);
        }
        options.page_token = part.next_page_token;
    }
}
