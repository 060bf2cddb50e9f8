//! Puts, gets, deletions, transactions, compaction.

use anyhow::{Context as _, Result, ensure};
use etcd_client::{
    Client, CompactionOptions, Compare, CompareOp, DeleteOptions, GetOptions, KvClientPrefix, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse,
};

use crate::{refused, same};

pub async fn flow(mut client: Client) -> Result<()> {
    single(&mut client).await.context("single keys")?;
    ranges(&mut client).await.context("ranges")?;
    transactions(&mut client).await.context("transactions")?;
    history(&mut client).await.context("history")?;
    namespace(client).await.context("a namespace")
}

async fn single(client: &mut Client) -> Result<()> {
    let first = client.put("a", "1", None).await?;
    ensure!(first.prev_key().is_none());
    let revision = first.header().context("a header")?.revision();
    let second = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await?;
    same(second.prev_key().context("the value before")?.value(), b"1")?;
    same(second.header().context("a header")?.revision(), revision + 1)?;
    let got = client.get("a", None).await?;
    let kv = got.kvs().first().context("a key")?;
    same((kv.value_str()?, kv.version(), kv.create_revision(), kv.mod_revision()), ("2", 2, revision, revision + 1))?;
    same(client.get("a", Some(GetOptions::new().with_revision(revision))).await?.kvs()[0].value(), b"1")?;
    same(client.get("missing", None).await?.kvs().len(), 0)?;
    let kept = PutOptions::new().with_ignore_value();
    client.put("a", "", Some(kept.clone())).await?;
    same(client.get("a", None).await?.kvs()[0].value_str()?, "2")?;
    refused(client.put("a", "x", Some(kept)).await, "etcdserver: value is provided")?;
    refused(client.put("", "x", None).await, "etcdserver: key is not provided")?;
    refused(
        client.put("a", "x", Some(PutOptions::new().with_lease(404))).await,
        "etcdserver: requested lease not found",
    )?;
    let future = GetOptions::new().with_revision(1 << 40);
    refused(client.get("a", Some(future)).await, "etcdserver: mvcc: required revision is a future revision")?;
    let deleted = client.delete("a", Some(DeleteOptions::new().with_prev_key())).await?;
    same((deleted.deleted(), deleted.prev_kvs()[0].value_str()?), (1, "2"))?;
    same(client.delete("a", None).await?.deleted(), 0)
}

async fn ranges(client: &mut Client) -> Result<()> {
    for (key, value) in [("r/a", "3"), ("r/b", "1"), ("r/c", "2"), ("s", "4")] {
        client.put(key, value, None).await?;
    }
    let mut keys = async |from: &str, options: GetOptions| -> Result<(Vec<String>, i64, bool)> {
        let got = client.get(from, Some(options)).await?;
        let keys = got.kvs().iter().map(|kv| Ok(kv.key_str()?.to_owned())).collect::<Result<_>>()?;
        Ok((keys, got.count(), got.more()))
    };
    let all = || GetOptions::new().with_prefix();
    let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    same(keys("r/", all()).await?, (owned(&["r/a", "r/b", "r/c"]), 3, false))?;
    same(keys("r/", all().with_limit(2)).await?, (owned(&["r/a", "r/b"]), 3, true))?;
    let by_value = all().with_sort(SortTarget::Value, SortOrder::Descend);
    same(keys("r/", by_value).await?.0, owned(&["r/a", "r/c", "r/b"]))?;
    let newest = all().with_sort(SortTarget::Mod, SortOrder::Descend).with_limit(1);
    same(keys("r/", newest).await?.0, owned(&["r/c"]))?;
    same(keys("r/", all().with_count_only()).await?, (Vec::new(), 3, false))?;
    same(keys("r/b", GetOptions::new().with_from_key().with_serializable()).await?.0, owned(&["r/b", "r/c", "s"]))?;
    same(keys("r/b", GetOptions::new().with_range("s")).await?.0, owned(&["r/b", "r/c"]))?;
    same(keys("", GetOptions::new().with_all_keys()).await?.1, 4)?;
    let mut kv = client.kv_client();
    let mut stream = kv.get_stream("r/", Some(all())).await?;
    let mut n_streamed = 0;
    while let Some(part) = stream.message().await? {
        n_streamed += part.kvs().len();
    }
    same(n_streamed, 3)?;
    let kept = client.get("r/a", None).await?.kvs()[0].mod_revision();
    let older = all().with_max_mod_revision(kept).with_keys_only();
    let got = client.get("r/", Some(older)).await?;
    same((got.kvs().len(), got.kvs()[0].value()), (1, &b""[..]))?;
    same(client.delete("r/", Some(DeleteOptions::new().with_prefix())).await?.deleted(), 3)?;
    same(client.delete("s", Some(DeleteOptions::new().with_from_key())).await?.deleted(), 1)
}

async fn transactions(client: &mut Client) -> Result<()> {
    client.put("t", "1", None).await?;
    let conditions = [
        Compare::value("t", CompareOp::Equal, "1"),
        Compare::version("t", CompareOp::Greater, 0),
        Compare::create_revision("none", CompareOp::Equal, 0),
        Compare::mod_revision("t", CompareOp::NotEqual, 1),
        Compare::lease("t", CompareOp::Equal, 0),
    ];
    let then = [TxnOp::put("t", "2", None), TxnOp::get("t", None), TxnOp::delete("none", None)];
    let done = client.txn(Txn::new().when(conditions).and_then(then)).await?;
    same(done.succeeded(), true)?;
    let [TxnOpResponse::Put(_), TxnOpResponse::Get(got), TxnOpResponse::Delete(deleted)] = &done.op_responses()[..]
    else {
        anyhow::bail!("{done:?}");
    };
    same((got.kvs()[0].value_str()?, deleted.deleted()), ("2", 0))?;
    let is_one = || [Compare::value("t", CompareOp::Equal, "1")];
    let nested = Txn::new().when([Compare::value("t", CompareOp::Equal, "2")]).and_then([TxnOp::put("t", "3", None)]);
    let done = client.txn(Txn::new().when(is_one()).or_else([TxnOp::txn(nested)])).await?;
    let [TxnOpResponse::Txn(inner)] = &done.op_responses()[..] else { anyhow::bail!("{done:?}") };
    same((done.succeeded(), inner.succeeded()), (false, true))?;
    same(client.get("t", None).await?.kvs()[0].value_str()?, "3")?;
    let twice = Txn::new().and_then([TxnOp::put("t", "4", None), TxnOp::put("t", "5", None)]);
    refused(client.txn(twice).await, "etcdserver: duplicate key given in txn request")?;
    client.delete("t", None).await?;
    Ok(())
}

async fn history(client: &mut Client) -> Result<()> {
    let old = client.put("h", "1", None).await?.header().context("a header")?.revision();
    let new = client.put("h", "2", None).await?.header().context("a header")?.revision();
    client.compact(new, Some(CompactionOptions::new().with_physical())).await?;
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(client.get("h", Some(GetOptions::new().with_revision(old))).await, compacted)?;
    refused(client.compact(new, None).await, compacted)?;
    same(client.get("h", Some(GetOptions::new().with_revision(new))).await?.kvs()[0].value_str()?, "2")?;
    client.delete("h", None).await?;
    Ok(())
}

async fn namespace(mut client: Client) -> Result<()> {
    let mut inside = KvClientPrefix::new(client.kv_client(), b"inside/".to_vec());
    inside.put("a", "1", None).await?;
    same(client.get("inside/a", None).await?.kvs()[0].value_str()?, "1")?;
    let got = inside.get("", Some(GetOptions::new().with_all_keys())).await?;
    same((got.kvs().len(), got.kvs()[0].key_str()?), (1, "a"))?;
    let is_one = Compare::value("a", CompareOp::Equal, "1");
    let done = inside.txn(Txn::new().when([is_one]).and_then([TxnOp::put("b", "2", None)])).await?;
    same(done.succeeded(), true)?;
    same(inside.delete("", Some(DeleteOptions::new().with_all_keys())).await?.deleted(), 2)
}
