"""The page without a service: a static folder whose graphs run in the browser with onnxruntime-web."""
