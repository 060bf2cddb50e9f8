// What a program with `@kubernetes/client-node` does: CRUD, patches, apply, watch, informer, custom resources, logs, exec and
// errors. Takes a kubeconfig; the cluster has simulated nodes. Ends with `ok`.

import assert from 'node:assert/strict';
import { PassThrough } from 'node:stream';
import * as k8s from '@kubernetes/client-node';

const namespace = 'javascript';
const PATIENCE_MS = 60_000;

async function eventually(what, condition) {
    const deadline = Date.now() + PATIENCE_MS;
    while (Date.now() < deadline) {
        const value = await condition();
        if (value) return value;
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.fail(`${what} does not come true`);
}

async function refused(code, reason, call) {
    try {
        await call();
    } catch (error) {
        if (!(error instanceof k8s.ApiException)) throw error;
        const body = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
        assert.deepEqual([error.code, body.reason], [code, reason]);
        return body;
    }
    assert.fail(`expected ${code} ${reason}`);
}

const gone = (call) => call().then(() => false, (error) => error.code === 404);

async function crud(core) {
    await core.createNamespace({ body: { metadata: { name: namespace } } });
    const made = await core.createNamespacedConfigMap({
        namespace, body: { metadata: { name: 'a', labels: { x: 'y' } }, data: { k: '1' } },
    });
    assert.ok(made.metadata.uid);
    assert.ok(made.metadata.creationTimestamp instanceof Date);
    await refused(409, 'AlreadyExists', () => core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'a' } } }));
    const replaced = await core.replaceNamespacedConfigMap({ name: 'a', namespace, body: { ...made, data: { k: '2' } } });
    assert.notEqual(replaced.metadata.resourceVersion, made.metadata.resourceVersion);
    await refused(409, 'Conflict', () => core.replaceNamespacedConfigMap({ name: 'a', namespace, body: made }));
    const patch = (body, type) =>
        core.patchNamespacedConfigMap({ name: 'a', namespace, body }, k8s.setHeaderOptions('Content-Type', type));
    const merged = await patch({ data: { l: '3' } }, k8s.PatchStrategy.MergePatch);
    assert.deepEqual(merged.data, { k: '2', l: '3' });
    const json = await patch([{ op: 'remove', path: '/data/l' }], k8s.PatchStrategy.JsonPatch);
    assert.deepEqual(json.data, { k: '2' });
    const strategic = await patch({ data: { m: '4' } }, k8s.PatchStrategy.StrategicMergePatch);
    assert.deepEqual(strategic.data, { k: '2', m: '4' });
    const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: 'x=y' });
    assert.deepEqual(listed.items.map((item) => item.metadata.name), ['a']);
    await core.deleteNamespacedConfigMap({ name: 'a', namespace });
    await refused(404, 'NotFound', () => core.readNamespacedConfigMap({ name: 'a', namespace }));
}

async function watching(config, core) {
    const { metadata } = await core.listNamespacedConfigMap({ namespace });
    const seen = [];
    const ended = new Promise((resolve, reject) => {
        const watch = new k8s.Watch(config);
        const query = { resourceVersion: metadata.resourceVersion, labelSelector: 'w=1', allowWatchBookmarks: true };
        const started = watch.watch(`/api/v1/namespaces/${namespace}/configmaps`, query, (type, object) => {
            if (type === 'BOOKMARK') return;
            seen.push([type, object.metadata.name, object.data.k]);
            if (type === 'DELETED') started.then((controller) => controller.abort()).then(resolve);
        }, (error) => (error && error.name !== 'AbortError' ? reject(error) : resolve()));
    });
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'w', labels: { w: '1' } }, data: { k: '1' } } });
    await core.patchNamespacedConfigMap(
        { name: 'w', namespace, body: { data: { k: '2' } } }, k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch),
    );
    await core.deleteNamespacedConfigMap({ name: 'w', namespace });
    await ended;
    assert.deepEqual(seen, [['ADDED', 'w', '1'], ['MODIFIED', 'w', '2'], ['DELETED', 'w', '2']]);
}

async function informing(config, core) {
    const path = `/api/v1/namespaces/${namespace}/secrets`;
    const informer = k8s.makeInformer(config, path, () => core.listNamespacedSecret({ namespace }));
    const added = new Set();
    informer.on('add', (secret) => added.add(secret.metadata.name));
    await informer.start();
    await core.createNamespacedSecret({ namespace, body: { metadata: { name: 's' }, stringData: { p: 'x' } } });
    await eventually('the informer has the secret', () => added.has('s'));
    assert.equal(informer.get('s', namespace).data.p, 'eA==');
    await informer.stop();
}

async function objects(config) {
    const client = k8s.KubernetesObjectApi.makeApiClient(config);
    const spec = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'generic', namespace }, data: { k: '1' } };
    await client.create(spec);
    const apply = (fieldManager, value, force) =>
        client.patch({ ...spec, data: { k: value } }, undefined, undefined, fieldManager, force, k8s.PatchStrategy.ServerSideApply);
    const conflict = await refused(409, 'Conflict', () => apply('applier', '2', false));
    assert.equal(conflict.details.causes[0].field, '.data.k');
    const forced = await apply('applier', '2', true);
    assert.equal(forced.data.k, '2');
    assert.ok(forced.metadata.managedFields.some((entry) => entry.manager === 'applier' && entry.operation === 'Apply'));
    await client.delete(spec);
}

async function custom(config) {
    const extensions = config.makeApiClient(k8s.ApiextensionsV1Api);
    const schema = {
        type: 'object',
        properties: { spec: { type: 'object', properties: { size: { type: 'integer', minimum: 1, _default: 3 } } } },
    };
    const name = 'boats.javascript.example.com';
    await extensions.createCustomResourceDefinition({ body: {
        metadata: { name },
        spec: {
            group: 'javascript.example.com', scope: 'Namespaced',
            names: { plural: 'boats', singular: 'boat', kind: 'Boat', listKind: 'BoatList' },
            versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema: schema } }],
        },
    } });
    await eventually('the definition is established', async () => {
        const { status } = await extensions.readCustomResourceDefinition({ name });
        return status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True');
    });
    const api = config.makeApiClient(k8s.CustomObjectsApi);
    const where = { group: 'javascript.example.com', version: 'v1', namespace, plural: 'boats' };
    const body = { apiVersion: 'javascript.example.com/v1', kind: 'Boat', metadata: { name: 'b' }, spec: {} };
    const boat = await api.createNamespacedCustomObject({ ...where, body });
    assert.deepEqual(boat.spec, { size: 3 });
    await refused(422, 'Invalid', () =>
        api.createNamespacedCustomObject({ ...where, body: { ...body, metadata: { name: 'c' }, spec: { size: 0 } } }));
    await extensions.deleteCustomResourceDefinition({ name });
    await eventually('the resource is gone', () => gone(() => api.listNamespacedCustomObject(where)));
}

async function streams(config, core, apps) {
    const labels = { app: 'web' };
    await apps.createNamespacedDeployment({ namespace, body: {
        metadata: { name: 'web' },
        spec: {
            replicas: 1, selector: { matchLabels: labels },
            template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'web:1' }] } },
        },
    } });
    const pod = await eventually('a running pod', async () => {
        const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'app=web', fieldSelector: 'status.phase=Running' });
        return items[0]?.metadata.name;
    });
    const log = await core.readNamespacedPodLog({ name: pod, namespace });
    assert.ok(log.length > 0);
    let output = '';
    const stdout = new PassThrough().on('data', (chunk) => { output += chunk; });
    const status = await new Promise((resolve, reject) => {
        new k8s.Exec(config).exec(namespace, pod, 'c', ['echo', 'hello'], stdout, new PassThrough(), null, false, resolve)
            .catch(reject);
    });
    assert.equal(status.status, 'Success');
    assert.match(output, /hello/);
}

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const core = config.makeApiClient(k8s.CoreV1Api);
await crud(core);
await watching(config, core);
await informing(config, core);
await objects(config);
await custom(config);
await streams(config, core, config.makeApiClient(k8s.AppsV1Api));
await core.deleteNamespace({ name: namespace });
await eventually('the namespace is gone', () => gone(() => core.readNamespace({ name: namespace })));
console.log('ok');
process.exit(0);
