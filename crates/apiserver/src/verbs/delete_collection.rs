//! DELETECOLLECTION: a list, then a delete for each item, a few at a time.

use api::{Status, meta};
use futures::StreamExt as _;

use super::delete::{DeleteOptions, delete_object};
use super::list::select;
use super::present::Presenter;
use super::{Content, Reply, Request};
use crate::gateway::Gateway;

/// Deletes under way at once; upstream's `--delete-collection-workers` is 1, ours share a batch of the store.
const WORKERS: usize = 16;

pub(crate) async fn delete_collection(gateway: &Gateway, request: &Request) -> Result<Reply, Status> {
    let options = DeleteOptions::decode(request)?;
    let (items, metadata) = select(gateway, request).await?;
    if let Some(warning) = options.warning(request) {
        request.notes.push(warning);
    }
    let mut failures = futures::stream::iter(items.clone())
        .map(|item| {
            let options = options.clone();
            async move {
                let object = item.parse().map_err(crate::error::from_read)?;
                let one = request.for_object(meta::namespace(&object), meta::name(&object));
                match delete_object(gateway, &one, &options).await {
                    // Somebody else was faster: gone is gone.
                    Err(status) if status.code == 404 => Ok(()),
                    Err(status) => Err(status),
                    Ok(_) => Ok(()),
                }
            }
        })
        // In order: of several failures the first one is told.
        .buffered(WORKERS)
        .filter_map(|result: Result<(), Status>| std::future::ready(result.err()));
    let mut failures = std::pin::pin!(failures.by_ref());
    if let Some(status) = failures.next().await {
        return Err(status);
    }
    let presenter = Presenter::new(request.kind.clone(), request.accept, request.query.text("includeObject"))?;
    Ok(Reply::new(200, Content::Body(presenter.content_type(), presenter.list(items, &metadata)?)))
}
