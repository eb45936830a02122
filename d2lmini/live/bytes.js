// Bytes as they travel: base64 in a text, a DataView from Python.

export function bytesOf64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** The bytes of a DataView, copied, so that any type of number may look at them. */
export const bytesOf = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
