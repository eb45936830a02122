// Bytes as they travel: base64 in a text, a DataView from Python.

export const bytesOf64 = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

/** The bytes of a DataView, copied, so that any type of number may look at them. */
export const bytesOf = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
