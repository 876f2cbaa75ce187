#!/usr/bin/env bash
# What the example's Run does. It works on its own copy of the repository, in which a prior patch has fixed a first
# mistake already, and fixes a second one.
set -eu
letter=docs/examples/letter.txt

echo "workspace: $(git log -1 --format=%h)"
echo "the prior patch is here: $(grep -c '^The pod' "$letter") line begins with 'The pod'"

# The token is a file of mode 0600 that exists for as long as this command does. Whoever prints it by accident
# prints its name.
echo "token: $(stat -c '%a' "$RUNTIMED_TRANSACTION_TOKEN_FILE") $(cat "$RUNTIMED_TRANSACTION_TOKEN_FILE")"

# What is not this Run's is closed.
for place in /root /home /proc/1/environ; do
    if cat "$place" > /dev/null 2>&1 || ls "$place/" > /dev/null 2>&1; then echo "open: $place"; else echo "closed: $place"; fi
done
if (exec 3<> /dev/tcp/127.0.0.1/80) 2> /dev/null; then echo "open: the network"; else echo "closed: the network"; fi

for line in 1 2 3; do
    echo "proof-reading line $line" >&2
    sleep 0.1
done
sed -i 's/can not recieve/cannot receive/' "$letter"

wc -w "$letter" > "$RUNTIMED_ARTIFACTS_DIR/words.txt"
echo "corrections=1" >> "$RUNTIMED_OUTPUTS"
echo "corrected"
