//! Every page of a list, one after the other.

use cell_client::{ClientError, ListOptions, Page};

pub(crate) async fn all<T, F>(page: impl Fn(ListOptions) -> F) -> Result<Vec<T>, ClientError>
where
    F: Future<Output = Result<Page<T>, ClientError>>,
{
    let (mut items, mut options) = (Vec::new(), ListOptions::default());
    loop {
        let part = page(options.clone()).await?;
        items.extend(part.items);
        if part.next_page_token.is_empty() {
            return Ok(items);
        }
        options.page_token = part.next_page_token;
    }
}
