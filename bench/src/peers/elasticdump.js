// Makes the contract's document of an old chunk, for elasticdump's --transform.
const crypto = require('crypto')

module.exports = function (chunk) {
  const source = chunk._source
  const metadata = source.metadata
  const document = metadata.document_id
  chunk._id = crypto.createHash('sha256').update(`${document}|${source.id}`).digest('hex')
  source.collection_id = parseInt(chunk._index, 10)
  source.document_id = document
  source.document_name = metadata.document_name
  source.created = new Date(metadata.document_created_at * 1000).toISOString()
  for (const key of ['collection_id', 'document_id', 'document_name', 'document_created_at']) delete metadata[key]
  source.metadata = Object.keys(metadata).length > 0 ? metadata : null
}
