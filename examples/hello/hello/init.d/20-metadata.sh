#!/bin/sh
# The label's metadata: nested keys are flattened, templates are filled in.
echo "The greeting is: $GREETING_TEXT"
echo "The workspace is: $WORKSPACE"
